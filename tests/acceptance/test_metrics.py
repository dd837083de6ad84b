"""/metrics: totals over several processes, the state of the store, and no user input."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from devstack.ports import HOST, free_port
from devstack.stack import Stack
from devstack.waiting import wait_until
from tasks.queues import KEY_PREFIX
from tests.acceptance.conftest import InThread
from tests.conftest import NewStack
from tests.support.behaviours import accept, refuse, reset_after_read
from tests.support.client import ApiClient, status_report
from tests.support.full_disk import FullDisk
from tests.support.job_handle import at_once
from tests.support.orchestrator import StubOrchestrator
from tests.support.paused import paused, paused_worker

WORKER_PORT = free_port()
RUN_ROUTE = "/api/v1/jobs/<job_id>/run"


@pytest.fixture(scope="module")
def service(new_stack: NewStack) -> Iterator[Stack]:
    with new_stack(
        TAKEONE_WEB_PROCESSES="2",
        TAKEONE_WORKER_METRICS_PORT=str(WORKER_PORT),
        TAKEONE_CLAIM_LEASE_SECONDS="60",
        TAKEONE_UNKNOWN_HOLD_SECONDS="60",
    ) as running:
        yield running


@pytest.fixture
def editor(service: Stack) -> ApiClient:
    """A client with a new connection for each call, so that both web processes get some."""
    client = ApiClient(service.api_url, "hedy@example.org")
    client.session.headers["Connection"] = "close"
    return client


class Scrape:
    """The samples of /metrics at one moment."""

    def __init__(self, url: str) -> None:
        answer = requests.get(f"{url}/metrics", timeout=10)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        self.text = answer.text
        families = text_string_to_metric_families(answer.text)
        self._samples = [sample for family in families for sample in family.samples]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of all samples with this name and these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"takeone_{name}" and labels.items() <= sample.labels.items()
        )


def growth(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    """How much the sum of these samples has grown."""
    return after(name, **labels) - before(name, **labels)


def worker_scrape() -> Scrape:
    return Scrape(f"http://{HOST}:{WORKER_PORT}")


def test_requests_are_counted_over_all_processes(service: Stack, editor: ApiClient) -> None:
    job_id = editor.uploaded_job()["id"]
    before = Scrape(service.api_url)
    labels = {"route": "/api/v1/jobs/<job_id>", "method": "GET"}
    for _ in range(40):
        editor.job(job_id)
    editor.job("no-such-job")
    for _ in range(6):
        after = Scrape(service.api_url)
        for code, number in (("200", 40), ("404", 1)):
            assert growth(before, after, "http_requests_total", code=code, **labels) == number
        assert growth(before, after, "http_request_seconds_count", **labels) == 41


def test_metrics_hold_no_user_input(service: Stack, editor: ApiClient) -> None:
    job_id = editor.uploaded_job("s3://studio/hush.mp4")["id"]
    editor.run(job_id, headers={"X-Request-Id": "hush-request"})
    editor.call("GET", "/api/v1/hush-path")
    editor.call("HUSH", "/api/v1/projects")
    editor.callback(job_id, "hush-secret", status_report("AUDIO_READY", event_id="hush-event"))
    for scrape in (Scrape(service.api_url), worker_scrape()):
        for secret in ("hush", "HUSH", "hedy", job_id, service.settings["TAKEONE_REDIS_URL"]):
            assert secret not in scrape.text
    unmatched = Scrape(service.api_url)
    assert unmatched("http_requests_total", route="unmatched", method="any") >= 2


def test_runs_are_counted_by_outcome(
    service: Stack, editor: ApiClient, orchestrator: StubOrchestrator
) -> None:
    job_id, failing = editor.uploaded_job()["id"], editor.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = accept(after=0.5)
    orchestrator.behaviours[failing] = refuse(500)
    before, worker_before = Scrape(service.api_url), worker_scrape()
    answers = at_once(3, lambda _: editor.run(job_id))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 202]
    assert editor.run(job_id).status_code == 200
    assert editor.run(failing).status_code == 502
    assert editor.run("no-such-job").status_code == 404
    assert editor.retry(job_id, "once").status_code == 409
    after, worker_after = Scrape(service.api_url), worker_scrape()
    for kind, outcome, number in (
        ("run", "started", 1),
        ("run", "joined", 2),
        ("run", "replayed", 1),
        ("run", "ORCHESTRATOR_DISPATCH_FAILED", 1),
        ("run", "RESOURCE_NOT_FOUND", 1),
        ("retry", "JOB_ALREADY_RUNNING", 1),
    ):
        grown = growth(before, after, "runs_total", kind=kind, outcome=outcome)
        assert (kind, outcome, grown) == (kind, outcome, number)
    for outcome in ("accepted", "refused"):
        posts = growth(worker_before, worker_after, "dispatch_seconds_count", outcome=outcome)
        assert (outcome, posts) == (outcome, 1)
    assert worker_after("dispatch_seconds_sum", outcome="accepted") >= 0.5


def test_callbacks_are_counted_by_answer_and_superseded_executions_separately(
    service: Stack, editor: ApiClient, callback_secret: str
) -> None:
    job_id = editor.uploaded_job()["id"]
    editor.run(job_id)
    before = Scrape(service.api_url)
    report = status_report("AUDIO_READY", execution_id="first")
    for body in (report, report, status_report("TRANSCRIBING", execution_id="second")):
        editor.callback(job_id, callback_secret, body)
    after = Scrape(service.api_url)
    for answer in ("applied", "replayed", "EXECUTION_SUPERSEDED"):
        assert (answer, growth(before, after, "callbacks_total", answer=answer)) == (answer, 1)
    assert growth(before, after, "superseded_executions_total") == 1


@pytest.mark.redis_broker
def test_claims_and_queues_are_read_from_the_store(
    service: Stack, editor: ApiClient, orchestrator: StubOrchestrator
) -> None:
    waiting, lost = editor.uploaded_job()["id"], editor.uploaded_job()["id"]
    orchestrator.behaviours[lost] = reset_after_read()
    assert editor.run(lost).json()["details"]["reason"] == "outcome_unknown"
    scrape = Scrape(service.api_url)
    assert scrape("store_up") == 1
    assert scrape("claims", phase="UNKNOWN") == 1
    assert 0 < scrape("oldest_unknown_age_seconds") < 60
    with paused_worker(service.workers[0], service.redis):
        for _ in range(2):  # the paused worker has fetched one of them
            editor.run(editor.uploaded_job()["id"], headers={"Prefer": "respond-async"})
        editor.run(waiting, headers={"Prefer": "respond-async"})
        scrape = Scrape(service.api_url)
        assert scrape("claims", phase="CLAIMED") == 3
        # Entries of settled claims are removed with a delay.
        assert scrape("claims_in_flight") >= 4
        assert scrape("queue_length") >= 2
        assert 0 < scrape("oldest_claim_age_seconds") < 60
    wait_until(
        lambda: not Scrape(service.api_url)("claims", phase="CLAIMED"), 10, "they are posted"
    )
    assert worker_scrape()("dispatch_seconds_count", outcome="outcome_unknown") == 1


@pytest.mark.redis_broker
def test_discarded_messages_are_counted(service: Stack) -> None:
    before = worker_scrape()
    with service.redis.client() as client:
        client.lpush(f"{KEY_PREFIX}takeone.dispatch.0", b"no message of ours")
    wait_until(
        lambda: growth(before, worker_scrape(), "messages_discarded_total") == 1, 10, "it counts"
    )


def test_the_worker_exposes_its_breaker_and_its_sweeps(service: Stack) -> None:
    scrape = worker_scrape()
    assert "takeone_breaker_open 0.0" in scrape.text
    assert (
        wait_until(lambda: worker_scrape()("sweeps_total", result="done"), 30, "it has swept") > 0
    )


def test_metrics_are_served_while_the_store_is_down(service: Stack) -> None:
    with paused(service.redis):
        scrape = Scrape(service.api_url)
    assert scrape("store_up") == 0
    assert scrape("http_requests_total") > 0
    assert "takeone_claims" not in scrape.text
    wait_until(lambda: Scrape(service.api_url)("store_up"), 30, "the store is back")


def test_a_killed_process_keeps_its_counters_but_not_its_waiting_callers(
    service: Stack, editor: ApiClient, orchestrator: StubOrchestrator, in_thread: InThread
) -> None:
    assert editor.run(editor.uploaded_job()["id"]).status_code == 202
    counted = Scrape(service.api_url)("runs_total", outcome="started")
    assert counted > 0
    job_id = editor.uploaded_job()["id"]
    orchestrator.behaviours[job_id] = accept(after=1.5)
    caller = in_thread(editor.run, job_id)
    wait_until(lambda: Scrape(service.api_url)("callers_waiting") == 1, 30, "the caller waits")
    for child in psutil.Process(service.webs[0].pid).children():
        child.kill()
    assert isinstance(caller.exception(10), requests.ConnectionError)
    service.wait_for_web(service.webs[0])
    scrape = wait_until(
        lambda: (now := Scrape(service.api_url))("callers_waiting") == 0 and now,
        30,
        "the caller is no longer counted",
    )
    assert scrape("runs_total", outcome="started") == counted


def test_the_metric_files_are_removed_when_the_server_stops(service: Stack) -> None:
    pid = service.webs[0].pid
    places = [Path("/dev/shm"), Path("/tmp")]

    def left() -> list[Path]:
        return [found for place in places for found in place.glob(f"takeone-metrics-{pid}-*")]

    assert len(left()) == 1
    service.webs[0].terminate()
    assert left() == []


def test_while_a_process_creates_its_file_the_metrics_are_a_503(
    new_stack: NewStack, tmp_path: Path
) -> None:
    with new_stack(workers=0, PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as fresh:
        new = tmp_path / "counter_999999.db"
        new.touch()  # prometheus_client writes into it only afterwards
        answer = requests.get(f"{fresh.api_url}/metrics", timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
        assert "Retry-After" in answer.headers
        new.unlink()
        Scrape(fresh.api_url)


def test_a_full_disk_for_the_metric_files_ends_no_process(
    new_stack: NewStack, tmp_path: Path
) -> None:
    disk = FullDisk(tmp_path, size=16 * 2**20)
    try:
        with new_stack(workers=0, PROMETHEUS_MULTIPROC_DIR=str(disk.mount)) as fresh:
            disk.fail()
            editor = ApiClient(fresh.api_url)
            assert editor.call("GET", "/no/such/route").status_code == 404
            job_id = editor.uploaded_job()["id"]
            assert [editor.cancel(job_id).status_code for _ in range(2)] == [200, 409]
            assert Scrape(fresh.api_url)("http_requests_total", code="409") == 1
            files = [found.stat() for found in disk.mount.glob("*.db")]
            assert all(512 * file.st_blocks >= file.st_size for file in files), "none has holes"
    finally:
        disk.close()
