"""Wait until Flower is connected to the broker; it never receives events from before."""

from collections.abc import Callable

from devstack.waiting import wait_until
from tests.support.client import ApiClient

# Flower reconnects after 2, 4, 8 … s.
_CONNECTED_SECONDS = 60.0
_SHOWN_SECONDS = 1.0


def wait_until_connected(client: ApiClient, is_shown: Callable[[str], bool]) -> None:
    """Start runs until Flower shows one; `is_shown` tells whether it shows the task of a dispatch id."""

    def shows_a_new_run() -> bool:
        job_id = client.uploaded_job()["id"]
        assert client.run(job_id).status_code == 202
        try:
            wait_until(lambda: is_shown(f"run-{job_id}"), _SHOWN_SECONDS, "Flower shows this run")
        except TimeoutError:
            return False
        return True

    wait_until(shows_a_new_run, _CONNECTED_SECONDS, "Flower shows a run")
