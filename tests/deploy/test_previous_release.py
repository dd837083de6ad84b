"""Two releases on one store and broker: a rolling upgrade, a rollback, and an upgrade again.

The processes of the previous release run beside the current one's, or instead of them. Every job ends, with
one execution for each dispatch, whichever release handles its requests, dispatches, callbacks and sweeps.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devstack.processes import Process
from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from domain.record import TaskKind
from store import keys
from tasks import message
from tasks.queues import KEY_PREFIX
from tests.conftest import CALLBACK_SECRETS, QUICK_SETTINGS
from tests.support.behaviours import accept, hang, in_turn, reset_after_read
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, at_once, refusal
from tests.support.orchestrator import StubOrchestrator
from tests.support.previous_release import previous_release

pytestmark = pytest.mark.timeout(500)  # the first test may have to install the release

SECRET = CALLBACK_SECRETS[0]
ACCEPTED, NOTHING_TO_DO = '"dispatch.accepted"', '"dispatch.nothing_to_do"'
ASYNC = {"Prefer": "respond-async"}
# The sending lease, which the sweep waits for, and the pause before it sends again.
SWEPT_SECONDS = 25.0


class Release:
    """One release: its web and worker process, and a client of its API."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = ApiClient(stack.api_url, "alice")
        (self.web,), (self.worker,) = stack.webs, stack.workers

    def run_only(self, *wanted: Process) -> None:
        """Start and stop processes so that only these run."""
        for process in (self.web, self.worker):
            if process not in wanted:
                process.terminate()
            elif not process.is_running:
                self.stack.restart(process)

    def job(self, job_id: str) -> JobHandle:
        """Return a handle whose calls and callbacks go to this release."""
        return JobHandle(self.client, job_id, SECRET)


class TwoReleases:
    """Both releases on one store, with one orchestrator."""

    def __init__(
        self, redis: RedisServer, stub: StubOrchestrator, previous: Release, current: Release
    ) -> None:
        self.redis, self.stub, self.previous, self.current = redis, stub, previous, current
        self.releases = (previous, current)
        self.jobs: list[str] = []

    def other(self, release: Release) -> Release:
        return self.current if release is self.previous else self.previous

    def side_by_side(self, worker_of: Release) -> None:
        """Run both web processes, and the worker of one release."""
        other = self.other(worker_of)
        other.run_only(other.web)
        worker_of.run_only(worker_of.web, worker_of.worker)

    def alone(self, release: Release) -> None:
        """Run only this release."""
        self.other(release).run_only()
        release.run_only(release.web, release.worker)

    def uploaded(self, release: Release) -> str:
        """Create a job in UPLOADED by this release; return its id."""
        job_id = str(release.client.uploaded_job()["id"])
        self.jobs.append(job_id)
        return job_id

    def posts(self, job_id: str) -> list[str]:
        """Return the Idempotency-Keys of the posts about a job, in order, cancels included."""
        return [str(request.dispatch_id) for request in self.stub.requests_for(job_id)]

    def claim(self, job_id: str) -> dict[str, Any]:
        """Return the stored claim; empty if there is none."""
        with self.redis.client() as client:
            return dict(json.loads(client.get(keys.claim(job_id)) or "{}"))

    def wait_for_phase(self, job_id: str, phase: str, limit_seconds: float = SWEPT_SECONDS) -> None:
        """Wait until the job's claim is in this phase."""
        what = f"the claim of {job_id} is {phase}"
        wait_until(lambda: self.claim(job_id).get("phase") == phase, limit_seconds, what)

    def lose_messages(self) -> None:
        with self.redis.client() as client:
            for name in client.scan_iter(f"{KEY_PREFIX}takeone.dispatch.*"):
                client.delete(name)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoReleases]:
    root = previous_release()
    folder = tmp_path_factory.mktemp("releases")
    with RedisServer(folder / "redis") as redis, StubOrchestrator() as stub:
        settings = {
            **QUICK_SETTINGS,
            "TAKEONE_ORCHESTRATOR_URL": stub.url,
            "TAKEONE_ORCHESTRATOR_CANCEL_URL": stub.url.replace("dispatches", "cancel"),
            "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS": "3600",
        }
        previous = Stack(folder / "previous", settings=settings, redis=redis, root=root)
        current = Stack(folder / "current", settings=settings, redis=redis)
        try:
            yield TwoReleases(redis, stub, Release(previous), Release(current))
        finally:
            previous.stop()
            current.stop()


@pytest.mark.parametrize("poster", ["previous", "current"])
@pytest.mark.parametrize("first", ["previous", "current"])
def test_the_releases_may_alternate_over_the_steps_of_a_job(
    poster: str, first: str, both: TwoReleases
) -> None:
    one: Release = getattr(both, first)
    both.side_by_side(worker_of=getattr(both, poster))

    job_id = both.uploaded(one)
    job, other_job = one.job(job_id), both.other(one).job(job_id)
    run = other_job.client.run(job_id)
    assert (run.status_code, run.json()["status"]) == (202, "AUDIO_EXTRACTING"), run.text
    replay = job.client.run(job_id)
    assert (replay.status_code, replay.json()["dispatch_id"]) == (200, run.json()["dispatch_id"])
    assert refusal(job.retry("early"))[:2] == (409, "JOB_ALREADY_RUNNING")
    for handle, status in (
        (job, "AUDIO_READY"), (other_job, "TRANSCRIBING"), (job, "FAILED"),
    ):  # fmt: skip
        handle.reported(status, artifact_updates={f"from_{status.lower()}": status})

    report = status_report("TRANSCRIBING")
    assert job.send(report).status_code == 409, "it does not lead out of FAILED"
    retry = other_job.retry("again")
    assert retry.status_code == 202, retry.text
    replay = job.retry("again")
    assert (replay.status_code, replay.json()["dispatch_id"]) == (200, retry.json()["dispatch_id"])
    other_job.reported("AUDIO_EXTRACTING", execution_id="second")
    for handle in (job, other_job):
        replay = handle.client.run(job_id)
        assert replay.status_code == 200, "the run's own claim is kept beside the retry's"
        assert replay.json()["dispatch_id"] == run.json()["dispatch_id"]
    late = job.report("AUDIO_READY", execution_id="another")
    assert refusal(late)[:2] == (409, "EXECUTION_SUPERSEDED")

    assert job.client.cancel(job_id).json()["status"] == "CANCELLED"
    assert refusal(other_job.client.run(job_id))[:2] == (409, "FSM_TERMINAL_IMMUTABLE")
    dispatches = [run.json()["dispatch_id"], retry.json()["dispatch_id"]]
    both.stub.wait_for_requests(job_id, 3)
    assert both.posts(job_id) == [*dispatches, f"cancel-{dispatches[-1]}"]
    manifest = job.shown()["manifest"]
    assert {"from_audio_ready", "from_transcribing", "from_failed"} <= manifest.keys()
    wait_until(lambda: "orchestrator.cancel_notified" in job.event_types(), 10, "it is recorded")
    assert job.everything() == other_job.everything()


@pytest.mark.parametrize("poster", ["previous", "current"])
def test_concurrent_runs_at_both_releases_are_one_dispatch(poster: str, both: TwoReleases) -> None:
    """A caller waits for either release's worker; its notification may not reach the other's web process."""
    both.side_by_side(worker_of=getattr(both, poster))
    clients = [release.client for release in both.releases]
    for _ in range(10):
        job_id = both.uploaded(both.current)
        answers = at_once(6, lambda number, job_id=job_id: clients[number % 2].run(job_id))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [202]
        assert {answer.json()["dispatch_id"] for answer in answers} == {f"run-{job_id}"}
        assert both.posts(job_id) == [f"run-{job_id}"]


def test_concurrent_workers_of_both_releases_post_each_dispatch_once(both: TwoReleases) -> None:
    both.side_by_side(worker_of=both.previous)
    both.current.run_only(both.current.web, both.current.worker)
    jobs = [both.uploaded(both.releases[number % 2]) for number in range(40)]
    run = lambda nth: both.releases[nth // 2 % 2].client.run(jobs[nth], headers=ASYNC)  # noqa: E731
    at_once(40, run)
    for job_id in jobs:
        both.wait_for_phase(job_id, "SENT")
    accepted = [logged(release, ACCEPTED) for release in both.releases]
    assert all(accepted), f"one worker had nothing to do: {accepted}"
    expected = sum(logged(release, NOTHING_TO_DO) for release in both.releases) + 2 * len(jobs)
    with both.redis.client() as client:
        for job_id in jobs * 2:
            queue = "takeone.dispatch.0"
            token = FencingToken(job_id, f"run-{job_id}", 1)
            again = message.encode(TaskKind.DISPATCH, token.dispatch_id, token, queue)
            client.lpush(KEY_PREFIX + queue, again)

    def duplicates_are_done() -> bool:
        return sum(logged(release, NOTHING_TO_DO) for release in both.releases) == expected

    wait_until(duplicates_are_done, 10, "each duplicated message is handled")
    for job_id in jobs:
        assert both.posts(job_id) == [f"run-{job_id}"]


def logged(release: Release, event: str) -> int:
    """Return how often the release's worker has logged an event."""
    return release.worker.log().count(event)


def audio_ready(handle: JobHandle) -> JobHandle:
    """Run the job and report its first checkpoint, from which a retry resumes."""
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", artifact_updates={"audio_uri": "s3://studio/one.wav"})
    return handle


class Handover:
    """Jobs that one release leaves in every state in which it can stop, for the other to finish."""

    def __init__(self, both: TwoReleases, release: Release) -> None:
        self.both = both
        self.posts: dict[str, int] = {}  # by job: the expected number of posts, resends included
        both.alone(release)
        running = self._job(release, posts=1)
        audio_ready(running)
        failed = self._job(release, posts=2)
        audio_ready(failed).reported("FAILED", failure_code="NO_SOUND")
        retried = self._job(release, posts=2)
        audio_ready(retried).reported("FAILED")
        unknown = self._job(release, posts=2)
        both.stub.behaviours[unknown.id] = in_turn(reset_after_read(), accept())
        cut_off = self._job(release, posts=2)
        both.stub.behaviours[cut_off.id] = in_turn(hang(30), accept())
        for handle in (unknown, cut_off):
            handle.client.run(handle.id, headers=ASYNC)
            both.stub.wait_for_requests(handle.id)
        both.wait_for_phase(unknown.id, "UNKNOWN")
        release.worker.kill()
        assert both.claim(cut_off.id)["phase"] == "SENDING"

        lost = self._job(release, posts=1)
        lost.client.run(lost.id, headers=ASYNC)
        both.lose_messages()
        waiting = self._job(release, posts=1)
        waiting.client.run(waiting.id, headers=ASYNC)
        retried.client.retry(retried.id, "again", headers=ASYNC)
        unwanted = self._job(release, posts=0)
        unwanted.client.run(unwanted.id, headers=ASYNC)
        self.running, self.failed, self.retried = running.id, failed.id, retried.id
        self.dispatched = [unknown.id, cut_off.id, lost.id, waiting.id]
        self.unwanted = unwanted.id

    def _job(self, release: Release, posts: int) -> JobHandle:
        job_id = self.both.uploaded(release)
        self.posts[job_id] = posts
        return release.job(job_id)

    def finish(self, release: Release) -> None:
        """Bring all jobs to DRAFT_READY with a release that did not create them."""
        both, handle = self.both, release.job
        release.run_only(release.web)
        assert release.client.cancel(self.unwanted).json()["status"] == "CANCELLED"
        both.alone(release)
        assert handle(self.failed).retry("once more").status_code == 202
        for job_id in (self.retried, *self.dispatched):
            both.wait_for_phase(job_id, "SENT")
        for job_id in self.dispatched:
            assert handle(job_id).status == "AUDIO_EXTRACTING"
            handle(job_id).reported("AUDIO_READY")
        for job_id in (self.running, self.failed, self.retried, *self.dispatched):
            handle(job_id).reported("TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING", "DRAFT_READY")

    def check(self) -> None:
        """Assert that each dispatch was posted as often as expected, and that both releases show the same."""
        for job_id, count in self.posts.items():
            posts = self.both.posts(job_id)
            assert len(posts) == count, posts
            is_retry = job_id in (self.failed, self.retried)
            assert len(set(posts)) == (2 if is_retry else min(count, 1)), posts
            views = [release.job(job_id).everything() for release in self.both.releases]
            assert views[0] == views[1]
            status = "CANCELLED" if job_id == self.unwanted else "DRAFT_READY"
            assert views[0][0]["status"] == status


def test_each_release_finishes_what_the_other_left_through_upgrade_rollback_and_upgrade(
    both: TwoReleases,
) -> None:
    upgrade = Handover(both, both.previous)
    upgrade.finish(both.current)
    rollback = Handover(both, both.current)
    rollback.finish(both.previous)
    again = Handover(both, both.previous)
    again.finish(both.current)
    both.side_by_side(worker_of=both.current)
    for handover in (upgrade, rollback, again):
        handover.check()
    with both.redis.client() as client:
        assert client.zcard(keys.UNKNOWN) == 0
        metrics = ApiClient(both.current.stack.api_url)
        none_open = "takeone_claims_in_flight 0.0"
        wait_until(lambda: none_open in metrics.call("GET", "/metrics").text, 10, "none is open")
        assert client.zcard(keys.IN_FLIGHT) == 0, "the list has no claim that the other settled"


def test_both_releases_can_read_every_job_of_these_tests(both: TwoReleases) -> None:
    both.side_by_side(worker_of=both.current)
    for job_id in both.jobs:
        previous, current = (release.job(job_id).everything() for release in both.releases)
        assert previous == current


def test_both_releases_list_what_either_creates_and_changes(both: TwoReleases) -> None:
    both.side_by_side(worker_of=both.current)
    for creator in both.releases:
        other = both.other(creator)
        fields = {"name": "Interview", "metadata": {"a": "1"}}
        job_id = both.uploaded(creator)
        project = creator.client.job(job_id).json()["project_id"]
        other.client.edit_job(job_id, **fields)
        assert creator.client.cancel(job_id).json()["metadata"] == fields["metadata"]
        for release in both.releases:
            assert project in listed(release, "/projects")
            assert listed(release, f"/projects/{project}/jobs") == {job_id}
            assert job_id in listed(release, "/jobs?updated_after=2000-01-01T00:00:00Z")
        assert other.client.delete_job(job_id).status_code == 204
        assert all(job_id not in listed(release, "/jobs") for release in both.releases)


def listed(release: Release, path: str) -> set[str]:
    """Return the ids on all pages of a list."""
    found: set[str] = set()
    params: dict[str, Any] = {"limit": 200}
    while True:
        page = release.client.get(path, params=params).json()
        found |= {item["id"] for item in page["items"]}
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]
