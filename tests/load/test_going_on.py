"""A busy worker's threads take messages past Celery's event loop, and keep to its bounds."""

from collections import Counter
from collections.abc import Iterator

import pytest

from demo.stack import Stack
from tests.conftest import QUICK_SETTINGS
from tests.load.seeds import uploaded_jobs
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.orchestrator import StubOrchestrator
from tests.support.waiting import wait_until

CONCURRENCY, JOBS = 3, 30
AT_ONCE = {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def slow() -> Iterator[StubOrchestrator]:
    with StubOrchestrator(accept(after=0.2)) as stub:
        yield stub


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, slow: StubOrchestrator) -> Iterator[Stack]:
    settings = {
        **QUICK_SETTINGS,
        "TAKEONE_ORCHESTRATOR_URL": slow.url,
        "TAKEONE_CLAIM_LEASE_SECONDS": "60",
        "TAKEONE_WORKER_CONCURRENCY": str(CONCURRENCY),
    }
    with Stack(tmp_path_factory.mktemp("narrow"), settings=settings) as running:
        yield running


def test_a_crowd_is_posted_each_job_once_and_never_more_at_once_than_the_worker_may(
    narrow: Stack, slow: StubOrchestrator
) -> None:
    jobs = uploaded_jobs(narrow, "alice", JOBS)
    alice = ApiClient(narrow.api_url, "alice")
    for job_id in jobs:
        assert alice.run(job_id, headers=AT_ONCE).status_code == 202

    def phases() -> set[str]:
        return {alice.job(job_id).json()["dispatch"]["phase"] for job_id in jobs}

    wait_until(lambda: phases() == {"SENT"}, 20, "all are sent")
    assert Counter(request.job_id for request in slow.requests) == Counter(jobs)
    assert slow.most_in_flight == CONCURRENCY
