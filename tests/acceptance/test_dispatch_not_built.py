"""A dispatch that fails in the worker before any request is made."""

from tests.conftest import NewStack
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator

# A label of a host name has at most 63 characters, so no request can be built.
_NO_HOST = f"http://{'a' * 64}.example/"


def test_a_dispatch_that_cannot_be_built_is_not_started_and_can_be_run_again(
    new_stack: NewStack, orchestrator: StubOrchestrator
) -> None:
    # Without a sweep, only the worker itself can settle it.
    stack = new_stack(TAKEONE_SWEEP_INTERVAL_SECONDS="3600")
    (worker,) = stack.workers
    valid = worker.environment
    worker.environment = {**valid, "TAKEONE_ORCHESTRATOR_URL": _NO_HOST}
    with stack:
        editor = ApiClient(stack.api_url, "frida")
        job_id = editor.uploaded_job()["id"]
        run = editor.run(job_id)
        assert run.status_code == 502
        assert run.json()["details"] == {"reason": "not_started"}
        assert editor.job(job_id).json()["status"] == "UPLOADED"
        worker.environment = valid
        worker.kill()  # it is idle
        stack.restart(worker)
        assert editor.run(job_id).status_code == 202
    assert len(orchestrator.requests_for(job_id)) == 1
