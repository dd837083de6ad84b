"""The limit of run calls per user: off unless set, kept in the store, told with Retry-After."""

import time
from collections.abc import Iterator

import pytest

from demo.stack import Stack
from store import keys
from tests.conftest import QUICK_SETTINGS
from tests.support.client import ApiClient
from tests.support.job_handle import at_once
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused

LIMIT, WINDOW_SECONDS = 5, 2
REFUSED = {"code": "RATE_LIMITED", "message": "Too many requests."}


@pytest.fixture(scope="module")
def limited(
    tmp_path_factory: pytest.TempPathFactory, orchestrator: StubOrchestrator
) -> Iterator[Stack]:
    settings = {
        **QUICK_SETTINGS,
        "TAKEONE_ORCHESTRATOR_URL": orchestrator.url,
        "TAKEONE_RUN_LIMIT": f"{LIMIT}/{WINDOW_SECONDS} seconds",
    }
    with Stack(tmp_path_factory.mktemp("limited"), settings=settings, web=2) as running:
        yield running


def test_calls_past_the_limit_get_429_whichever_process_counts_and_other_users_none(
    limited: Stack,
) -> None:
    clients = [ApiClient(web.url, "carol") for web in limited.webs]
    job_id = clients[0].uploaded_job()["id"]
    answers = at_once(4 * LIMIT, lambda number: clients[number % 2].run(job_id))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * (LIMIT - 1) + [202] + [429] * 3 * LIMIT
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json() == REFUSED
            assert 1 <= int(answer.headers["Retry-After"]) <= WINDOW_SECONDS
    dave = ApiClient(limited.api_url, "dave")
    assert dave.run(dave.uploaded_job()["id"]).status_code == 202
    # What is not a run is not counted.
    assert clients[0].job(job_id).status_code == 200


def test_after_the_time_that_retry_after_names_the_call_is_let_in(limited: Stack) -> None:
    erin = ApiClient(limited.api_url, "erin")
    job_id = erin.uploaded_job()["id"]
    answers = [erin.run(job_id) for _ in range(LIMIT + 1)]
    assert [answer.status_code for answer in answers] == [202] + [200] * (LIMIT - 1) + [429]
    time.sleep(int(answers[-1].headers["Retry-After"]))  # what a client that was told so does
    assert erin.run(job_id).status_code == 200


def test_a_user_appears_in_the_store_as_a_digest(limited: Stack) -> None:
    frank = ApiClient(limited.api_url, "frank@example.org")
    frank.run(frank.uploaded_job()["id"])
    with limited.redis.client() as client:
        names = list(client.scan_iter(f"{keys.LIMITS}*"))
    assert names
    assert not any("frank" in name for name in names)


def test_a_store_that_is_away_is_503_with_retry_after(limited: Stack) -> None:
    grace = ApiClient(limited.api_url, "grace")
    job_id = grace.uploaded_job()["id"]
    with paused(limited.redis):
        answer = grace.run(job_id)
    assert answer.status_code == 503
    assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
    assert int(answer.headers["Retry-After"]) >= 1


def test_without_the_setting_nothing_is_counted(alice: ApiClient, stack: Stack) -> None:
    job_id = alice.uploaded_job()["id"]
    assert {alice.run(job_id).status_code for _ in range(20)} == {200, 202}
    with stack.redis.client() as client:
        assert not list(client.scan_iter(f"{keys.LIMITS}*"))
