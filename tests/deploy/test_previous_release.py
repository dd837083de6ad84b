"""Two releases on one store and broker: a rolling upgrade, a rollback, and an upgrade again.

The processes of the release before this one run next to this one's, or instead of them. Every job comes to
its end, with one execution for each dispatch, whichever release made, ran, posted or swept it, or heard of it.
"""

import json
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest

from devstack.processes import Process
from devstack.redis_server import RedisServer
from devstack.stack import Stack
from devstack.waiting import wait_until
from domain.claim import FencingToken
from store import keys
from tasks import message
from tasks.queues import KEY_PREFIX
from tests.conftest import CALLBACK_SECRETS, QUICK_SETTINGS
from tests.support.behaviours import accept, hang, in_turn, reset_after_read
from tests.support.client import ApiClient, status_report
from tests.support.job_handle import JobHandle, at_once, refusal
from tests.support.orchestrator import StubOrchestrator
from tests.support.previous_release import previous_release

pytestmark = pytest.mark.timeout(500)  # the first one may have to install the release

SECRET = CALLBACK_SECRETS[0]
WORDS = ('"dispatch.accepted"', '"dispatch.nothing_to_do"')
ASYNC = {"Prefer": "respond-async"}
SWEPT_SECONDS = (
    25.0  # a worker's lease, which the sweep waits for, and the pause before it sends again
)


class Release:
    """One release's web and worker process, and a client of its own."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = ApiClient(stack.api_url, "alice")
        (self.web,), (self.worker,) = stack.webs, stack.workers

    def run_only(self, *wanted: Process) -> None:
        """Start and stop processes until just these run."""
        for process in (self.web, self.worker):
            if process not in wanted:
                process.terminate()
            elif not process.is_running:
                self.stack.restart(process)

    def of(self, job_id: str) -> JobHandle:
        """The job, as a caller and an orchestrator of this release reach it."""
        return JobHandle(self.client, job_id, SECRET)


class Bed:
    """Both releases, the store and the orchestrator, which runs one Idempotency-Key once."""

    def __init__(
        self, redis: RedisServer, stub: StubOrchestrator, before: Release, now: Release
    ) -> None:
        self.redis, self.stub, self.before, self.now = redis, stub, before, now
        self.jobs: list[str] = []

    def other(self, release: Release) -> Release:
        """The other one of the two."""
        return self.now if release is self.before else self.before

    def side_by_side(self, worker_of: Release) -> None:
        """Both serve callers, and the worker of one works."""
        other = self.other(worker_of)
        other.run_only(other.web)
        worker_of.run_only(worker_of.web, worker_of.worker)

    def alone(self, release: Release) -> None:
        """Only this release runs."""
        self.other(release).run_only()
        release.run_only(release.web, release.worker)

    def uploaded(self, maker: Release) -> str:
        """A new job in UPLOADED, made by this release."""
        job_id = str(maker.client.uploaded_job()["id"])
        self.jobs.append(job_id)
        return job_id

    def posts(self, job_id: str) -> list[str]:
        """The dispatch ids of what was posted about a job, in order; cancels have none of their own."""
        return [str(request.dispatch_id) for request in self.stub.requests_for(job_id)]

    def claim(self, job_id: str) -> dict[str, Any]:
        """The claim as it is stored; empty if there is none."""
        with self.redis.client() as client:
            return dict(json.loads(client.get(keys.claim(job_id)) or "{}"))

    def wait_for_phase(self, job_id: str, phase: str, limit_seconds: float = SWEPT_SECONDS) -> None:
        """Wait until the job's claim is in a phase."""
        what = f"the claim of {job_id} is {phase}"
        wait_until(lambda: self.claim(job_id).get("phase") == phase, limit_seconds, what)

    def lose_messages(self) -> None:
        """Empty the queues."""
        with self.redis.client() as client:
            for name in client.scan_iter(f"{KEY_PREFIX}takeone.dispatch.*"):
                client.delete(name)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    root = previous_release()
    folder = tmp_path_factory.mktemp("releases")
    with RedisServer(folder / "redis") as redis, StubOrchestrator() as stub:
        settings = {
            **QUICK_SETTINGS,
            "TAKEONE_ORCHESTRATOR_URL": stub.url,
            "TAKEONE_ORCHESTRATOR_CANCEL_URL": stub.url.replace("dispatches", "cancel"),
            "TAKEONE_ORCHESTRATOR_IDEMPOTENCY_SECONDS": "3600",
        }
        before = Stack(folder / "before", settings=settings, redis=redis, root=root)
        now = Stack(folder / "now", settings=settings, redis=redis)
        try:
            yield Bed(redis, stub, Release(before), Release(now))
        finally:
            before.stop()
            now.stop()


@pytest.mark.parametrize("poster", ["before", "now"])
@pytest.mark.parametrize("first", ["before", "now"])
def test_each_step_of_a_job_may_be_anothers(poster: str, first: str, bed: Bed) -> None:
    one: Release = getattr(bed, first)
    two = bed.other(one)
    bed.side_by_side(worker_of=getattr(bed, poster))

    job_id = bed.uploaded(one)
    mine, others = one.of(job_id), two.of(job_id)
    run = others.client.run(job_id)
    assert (run.status_code, run.json()["status"]) == (202, "AUDIO_EXTRACTING"), run.text
    replay = mine.client.run(job_id)
    assert (replay.status_code, replay.json()["dispatch_id"]) == (200, run.json()["dispatch_id"])
    assert refusal(mine.retry("early"))[:2] == (409, "JOB_ALREADY_RUNNING")
    for handle, status in zip(
        cycle((mine, others)), ("AUDIO_READY", "TRANSCRIBING", "FAILED"), strict=False
    ):
        handle.reported(status, artifact_updates={f"heard_{status.lower()}": status})

    report = status_report("TRANSCRIBING")
    assert mine.send(report).status_code == 409, "it does not lead out of FAILED"
    retry = others.retry("again")
    assert retry.status_code == 202, retry.text
    replay = mine.retry("again")
    assert (replay.status_code, replay.json()["dispatch_id"]) == (200, retry.json()["dispatch_id"])
    others.reported("AUDIO_EXTRACTING", execution_id="second")
    for handle in (mine, others):
        replay = handle.client.run(job_id)
        assert replay.status_code == 200, "the run's own claim is kept beside the retry's"
        assert replay.json()["dispatch_id"] == run.json()["dispatch_id"]
    late = mine.report("AUDIO_READY", execution_id="a stranger's")
    assert refusal(late)[:2] == (409, "EXECUTION_SUPERSEDED")

    assert mine.client.cancel(job_id).json()["status"] == "CANCELLED"
    assert refusal(others.client.run(job_id))[:2] == (409, "FSM_TERMINAL_IMMUTABLE")
    dispatches = [run.json()["dispatch_id"], retry.json()["dispatch_id"]]
    bed.stub.wait_for_requests(job_id, 3)
    assert bed.posts(job_id) == [*dispatches, f"cancel-{dispatches[-1]}"]
    manifest = mine.shown()["manifest"]
    assert {"heard_audio_ready", "heard_transcribing", "heard_failed"} <= manifest.keys()
    wait_until(lambda: "orchestrator.cancel_notified" in mine.event_types(), 10, "it is noted")
    assert mine.everything() == others.everything()


@pytest.mark.parametrize("poster", ["before", "now"])
def test_runs_at_once_at_both_are_one_dispatch(poster: str, bed: Bed) -> None:
    """Callers of one release wait for what a worker of either does: a notification may not reach them."""
    bed.side_by_side(worker_of=getattr(bed, poster))
    clients = [bed.before.client, bed.now.client]
    for _ in range(10):
        job_id = bed.uploaded(bed.now)
        answers = at_once(6, lambda number, job_id=job_id: clients[number % 2].run(job_id))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [202]
        assert {answer.json()["dispatch_id"] for answer in answers} == {f"run-{job_id}"}
        assert bed.posts(job_id) == [f"run-{job_id}"]


def test_both_workers_at_once_post_each_dispatch_once(bed: Bed) -> None:
    bed.side_by_side(worker_of=bed.before)
    bed.now.run_only(bed.now.web, bed.now.worker)
    makers = [bed.before, bed.now]
    made = [bed.uploaded(makers[number % 2]) for number in range(40)]
    at_once(40, lambda number: makers[number // 2 % 2].client.run(made[number], headers=ASYNC))
    for job_id in made:
        bed.wait_for_phase(job_id, "SENT")
    accepted, of_no_use = ([said(release, word) for release in makers] for word in WORDS)
    assert all(accepted), f"one worker had nothing to do: {accepted}"
    with bed.redis.client() as client:
        for job_id in made * 2:
            queue = "takeone.dispatch.0"
            token = FencingToken(job_id, f"run-{job_id}", 1)
            again = message.encode(message.DISPATCH_TASK, token.dispatch_id, token, queue)
            client.lpush(KEY_PREFIX + queue, again)
    what = "each message that came again is looked at"
    wanted = sum(of_no_use) + 2 * len(made)
    wait_until(lambda: sum(said(each, WORDS[1]) for each in makers) == wanted, 10, what)
    for job_id in made:
        assert bed.posts(job_id) == [f"run-{job_id}"]


def said(release: Release, word: str) -> int:
    """How often the release's worker has logged it."""
    return release.worker.log().count(word)


def audio_ready(handle: JobHandle) -> JobHandle:
    """Run the job, and report its first step with what it made: a retry resumes behind it."""
    handle.lead_to("AUDIO_EXTRACTING")
    handle.reported("AUDIO_READY", artifact_updates={"audio_uri": "s3://studio/one.wav"})
    return handle


class Story:
    """Jobs that a release leaves at every place where its stop can find them, and their way to the end."""

    def __init__(self, bed: Bed, release: Release) -> None:
        self.bed = bed
        self.posts: dict[str, int] = {}  # how many posts there may be of each job, resends included
        bed.alone(release)
        running = self._job(release, posts=1)
        audio_ready(running)
        failed = self._job(release, posts=2)
        audio_ready(failed).reported("FAILED", failure_code="NO_SOUND")
        retried = self._job(release, posts=2)
        audio_ready(retried).reported("FAILED")
        unknown = self._job(release, posts=2)
        bed.stub.behaviours[unknown.id] = in_turn(reset_after_read(), accept())
        cut_off = self._job(release, posts=2)
        bed.stub.behaviours[cut_off.id] = in_turn(hang(30), accept())
        for handle in (unknown, cut_off):
            handle.client.run(handle.id, headers=ASYNC)
            bed.stub.wait_for_requests(handle.id)
        bed.wait_for_phase(unknown.id, "UNKNOWN")
        release.worker.kill()
        assert bed.claim(cut_off.id)["phase"] == "SENDING"

        lost = self._job(release, posts=1)
        lost.client.run(lost.id, headers=ASYNC)
        bed.lose_messages()
        waiting = self._job(release, posts=1)
        waiting.client.run(waiting.id, headers=ASYNC)
        retried.client.retry(retried.id, "again", headers=ASYNC)
        unwanted = self._job(release, posts=0)
        unwanted.client.run(unwanted.id, headers=ASYNC)
        self.running, self.failed, self.retried = running.id, failed.id, retried.id
        self.dispatched = [unknown.id, cut_off.id, lost.id, waiting.id]
        self.unwanted = unwanted.id

    def _job(self, release: Release, posts: int) -> JobHandle:
        job_id = self.bed.uploaded(release)
        self.posts[job_id] = posts
        return release.of(job_id)

    def finish(self, release: Release) -> None:
        """Let a release that has never seen these jobs bring them all to DRAFT_READY."""
        bed, handle = self.bed, release.of
        release.run_only(release.web)
        assert release.client.cancel(self.unwanted).json()["status"] == "CANCELLED"
        bed.alone(release)
        assert handle(self.failed).retry("once more").status_code == 202
        for job_id in (self.retried, *self.dispatched):
            bed.wait_for_phase(job_id, "SENT")
        for job_id in self.dispatched:
            assert handle(job_id).status == "AUDIO_EXTRACTING"
            handle(job_id).reported("AUDIO_READY")
        for job_id in (self.running, self.failed, self.retried, *self.dispatched):
            handle(job_id).reported("TRANSCRIBING", "TRANSCRIPT_READY", "GENERATING", "DRAFT_READY")

    def check(self, *releases: Release) -> None:
        """Each dispatch was posted as often as it may be, and every release reads every job alike."""
        for job_id, count in self.posts.items():
            posts = self.bed.posts(job_id)
            assert len(posts) == count, posts
            is_retry = job_id in (self.failed, self.retried)
            assert len(set(posts)) == (2 if is_retry else min(count, 1)), posts
            first, *others = (release.of(job_id).everything() for release in releases)
            assert all(other == first for other in others)
            assert first[0]["status"] == ("CANCELLED" if job_id == self.unwanted else "DRAFT_READY")


def test_what_one_release_leaves_the_other_finishes_there_and_back_and_there_again(
    bed: Bed,
) -> None:
    upgrade = Story(bed, bed.before)
    upgrade.finish(bed.now)
    rollback = Story(bed, bed.now)
    rollback.finish(bed.before)
    again = Story(bed, bed.before)
    again.finish(bed.now)
    bed.side_by_side(worker_of=bed.now)
    for story in (upgrade, rollback, again):
        story.check(bed.now, bed.before)
    with bed.redis.client() as client:
        assert client.zcard(keys.UNKNOWN) == 0
        metrics = ApiClient(bed.now.stack.api_url)
        none_open = "takeone_claims_in_flight 0.0"
        wait_until(lambda: none_open in metrics.call("GET", "/metrics").text, 10, "none is open")
        assert client.zcard(keys.IN_FLIGHT) == 0, "what the other release settled is off the list"


def test_nothing_of_all_this_is_unreadable_to_either(bed: Bed) -> None:
    bed.side_by_side(worker_of=bed.now)
    for job_id in bed.jobs:
        for release in (bed.before, bed.now):
            assert release.client.job(job_id).status_code == 200
            assert release.client.events(job_id, params={"limit": 200}).status_code == 200
        assert bed.before.of(job_id).everything() == bed.now.of(job_id).everything()


def test_both_releases_list_what_either_makes_and_changes(bed: Bed) -> None:
    bed.side_by_side(worker_of=bed.now)
    for maker in (bed.before, bed.now):
        other = bed.other(maker)
        own = {"name": "Interview", "metadata": {"a": "1"}}
        job_id = bed.uploaded(maker)
        project = maker.client.job(job_id).json()["project_id"]
        other.client.edit_job(job_id, **own)
        assert maker.client.cancel(job_id).json()["metadata"] == own["metadata"]
        for release in (bed.before, bed.now):
            assert project in listed(release, "/projects")
            assert listed(release, f"/projects/{project}/jobs") == {job_id}
            assert job_id in listed(release, "/jobs?updated_after=2000-01-01T00:00:00Z")
        assert other.client.delete_job(job_id).status_code == 204
        assert all(job_id not in listed(release, "/jobs") for release in (bed.before, bed.now))


def listed(release: Release, path: str) -> set[str]:
    """The ids of all pages of a list."""
    found: set[str] = set()
    params: dict[str, Any] = {"limit": 200}
    while True:
        page = release.client.get(path, params=params).json()
        found |= {item["id"] for item in page["items"]}
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]
