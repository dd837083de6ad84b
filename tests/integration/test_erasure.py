"""What is kept of a user, a project or a job: exported, and erased at once, against a real store."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from devstack.processes import ROOT, clean_environment
from devstack.waiting import wait_until
from domain import lifecycle
from domain.claim import ClaimEvent
from domain.errors import Forbidden, ResourceNotFound
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record
from services.erasure import Erasure, Selection
from settings import load_store_settings
from store import keys
from store.errors import StoreUnavailable
from store.idempotency import IdempotencyKeys
from tests.support.stores import NOW, POLICY, Shelf, seconds

PLANTED = "planted-user"


@pytest.fixture
def app(shelf: Shelf) -> Iterator[dict[str, str]]:
    """The environment in which the command works on the shelf's store."""
    yield {"TAKEONE_ENV": "development", "TAKEONE_REDIS_URL": shelf.url}
    load_store_settings.cache_clear()


def do(app: dict[str, str], *arguments: str, says: str | None = None) -> Result:
    """`takeone jobs …`; `says` is what is typed."""
    load_store_settings.cache_clear()
    return CliRunner().invoke(main, ["jobs", *arguments], env=app, input=says)


def a_project(shelf: Shelf, owner: str) -> Project:
    """A new project."""
    project = Project(id=str(uuid4()), name=f"{owner}'s", owner=owner, created_at=NOW)
    assert shelf.projects.create(project, 600)
    return project


def finished(shelf: Shelf, project: Project) -> str:
    """A job that was run, accepted and cancelled."""
    job_id = shelf.new_job(project=project)
    shelf.jobs.update(job_id, lambda r: lifecycle.confirm_upload(r, "s3://planted", NOW, "c"))
    token = shelf.run(job_id)
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    shelf.jobs.update(job_id, lambda r: lifecycle.cancel(r, NOW, POLICY, None))
    return job_id


def remember(shelf: Shelf, user: str) -> str:
    """Let a user use an idempotency key; the key's name."""
    before = set(shelf.redis.keys())
    IdempotencyKeys(shelf.client, 600).id_for((user, "projects", "k"), {}, "an-id", lambda: None)
    (name,) = set(shelf.redis.keys()) - before
    return str(name)


def erasure(shelf: Shelf) -> Erasure:
    """The use case, on the shelf's store."""
    remembered = IdempotencyKeys(shelf.client, 600)
    return Erasure(shelf.jobs, shelf.projects, remembered, POLICY, lambda: NOW)


def left_in(shelf: Shelf) -> set[str]:
    """All keys, but for what says that an id was made, and for the queues."""
    names = shelf.redis.keys()
    return {name for name in names if not name.endswith(":made") and ":broker:" not in name}


def everything(shelf: Shelf) -> dict[str, bytes]:
    """All keys with their values."""
    return {name: shelf.redis.dump(name) for name in shelf.redis.scan_iter()}


def test_of_an_erased_user_nothing_is_left_and_others_stay_whole(
    shelf: Shelf, app: dict[str, str]
) -> None:
    finished(shelf, shelf.project)
    remember(shelf, "alice")
    others = {name: shelf.redis.dump(name) for name in left_in(shelf)}
    project, empty = a_project(shelf, PLANTED), a_project(shelf, PLANTED)
    for _ in range(3):
        finished(shelf, project)
    gone = finished(shelf, project)  # its time has ended: only lists name it
    shelf.redis.delete(*shelf.redis.keys(f"takeone:{{{gone}}}:*"))
    remember(shelf, PLANTED)
    result = do(app, "erase", "--user", PLANTED, "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "3 jobs, 0 of them not at rest; 2 projects",
        "erased: 3 jobs, 2 projects; forgotten: 1 idempotency keys",
        "the last look found nothing",
    ]
    assert {name: shelf.redis.dump(name) for name in left_in(shelf)} == others
    assert shelf.projects.load(empty.id) is None
    assert do(app, "erase", "--user", PLANTED, "--yes").exit_code == 0, "repeating it is no fault"


def test_a_project_goes_with_its_last_job_and_the_owner_keeps_the_rest(
    shelf: Shelf, app: dict[str, str]
) -> None:
    kept, project = finished(shelf, shelf.project), a_project(shelf, "alice")
    finished(shelf, project)
    name = remember(shelf, "alice")
    assert do(app, "erase", "--project", project.id, "--yes").exit_code == 0
    assert shelf.projects.load(project.id) is None
    assert shelf.jobs.load(kept)
    assert shelf.redis.exists(name)
    found = shelf.redis.zrange(keys.user_projects("alice"), 0, -1)
    assert [each[16:] for each in found] == [shelf.project.id]


def test_one_job_is_erased_and_its_project_stays(shelf: Shelf, app: dict[str, str]) -> None:
    job_id = finished(shelf, shelf.project)
    assert do(app, "erase", job_id, "--yes").exit_code == 0
    assert shelf.jobs.load(job_id) is None
    assert shelf.projects.load(shelf.project.id)
    again = do(app, "erase", job_id, "--yes")
    assert again.exit_code == 1
    assert f"there is no job {job_id}" in again.stderr


def test_a_dry_run_and_a_no_erase_nothing(shelf: Shelf, app: dict[str, str]) -> None:
    finished(shelf, shelf.project)
    shelf.unknown()
    before = everything(shelf)
    dry = do(app, "erase", "--user", "alice", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "2 jobs, 1 of them not at rest; 1 projects\n")
    assert do(app, "erase", "--user", "alice", says="n\n").exit_code == 1
    assert do(app, "erase", "--user", "alice").exit_code == 1, "nothing is typed"
    assert everything(shelf) == before
    assert do(app, "erase", "--project", shelf.project.id, "--wait", "0", says="y\n").exit_code == 1
    assert everything(shelf) != before


@pytest.mark.parametrize("wrong", [[], ["an-id", "--user", "u"], ["--user", "u", "--project", "p"]])
def test_exactly_one_selection_is_given(app: dict[str, str], wrong: list[str]) -> None:
    for command in ("erase", "export"):
        assert do(app, command, *wrong).exit_code == 2


def test_what_does_not_come_to_rest_is_cancelled_listed_and_left(
    shelf: Shelf, app: dict[str, str]
) -> None:
    token, waiting = shelf.unknown(), shelf.uploaded()
    result = do(app, "erase", "--user", "alice", "--yes", "--wait", "0")
    assert result.exit_code == 1
    assert f"left: {token.job_id}  CANCELLED  {token.dispatch_id}  UNKNOWN" in result.stderr
    assert "erased: 1 jobs, 0 projects" in result.stdout
    assert shelf.jobs.load(waiting) is None, "one that was never run is at rest once cancelled"
    assert shelf.projects.load(shelf.project.id), "a project goes with its last job"
    events, *_ = shelf.jobs.trail(token.job_id, 0, 100)
    assert events[-1].actor == "system"
    assert shelf.new_job(), "it has ended"
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert do(app, "erase", "--user", "alice", "--yes").exit_code == 0
    assert shelf.projects.load(shelf.project.id) is None


def test_it_waits_until_a_cancel_has_been_told(shelf: Shelf) -> None:
    tells = replace(POLICY, can_cancel=True)
    remembered = IdempotencyKeys(shelf.client, 600)
    use_case = Erasure(shelf.jobs, shelf.projects, remembered, tells, lambda: NOW)
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)

    def tell() -> None:
        def is_due() -> bool:
            claim = shelf.record(token.job_id).claim
            return claim is not None and claim.cancel_due

        wait_until(is_due, 10, "the job is cancelled")
        shelf.jobs.update(
            token.job_id, lambda r: lifecycle.cancel_notified(r, token, "done", True, NOW)
        )

    worker = threading.Thread(target=tell)
    worker.start()
    done = use_case.erase(Selection(user="alice"), 20)
    worker.join(10)
    assert (done.jobs, done.projects, done.left) == (1, 1, [])


def test_running_jobs_are_refused_where_the_orchestrator_could_not_be_told(shelf: Shelf) -> None:
    job_id = shelf.unknown().job_id
    revision = shelf.record(job_id).revision
    strict = {"TAKEONE_ENV": "production", "TAKEONE_REDIS_URL": shelf.url}
    result = do(strict, "erase", job_id, "--yes")
    load_store_settings.cache_clear()
    assert result.exit_code == 1
    assert "do not name the orchestrator" in result.stderr
    assert shelf.record(job_id).revision == revision


def test_what_is_created_all_the_same_is_erased_too(shelf: Shelf) -> None:
    for _ in range(20):
        finished(shelf, shelf.project)
    made: list[bool] = []

    def create() -> None:
        for number in range(200):
            job_id = f"new-{number}"
            new = lifecycle.create_job(job_id, shelf.project.id, "alice", NOW, None)
            # As in a look that takes longer than the mark lasts, or by an earlier release.
            shelf.projects.end_erasure("alice", None)
            with suppress(Forbidden):
                made.append(shelf.jobs.create(new, 600))

    creating = threading.Thread(target=create)
    creating.start()
    wait_until(lambda: len(made) > 5, 10, "jobs are created")
    done = erasure(shelf).erase(Selection(user="alice"), 1)
    creating.join(20)
    assert done.is_complete
    assert (done.jobs, done.projects) == (20 + sum(made), 1)
    assert done.jobs > 30, "some came after it had begun"
    assert left_in(shelf) == set()


@pytest.mark.parametrize("place", ["user", "project"])
def test_nothing_is_created_during_an_erasure_and_nothing_is_left_of_the_try(
    shelf: Shelf, place: str
) -> None:
    barred = ("alice", None) if place == "user" else (None, shelf.project.id)
    new = lifecycle.create_job("new", shelf.project.id, "alice", NOW, None)
    project = Project(id="a-project", name="P", owner="alice", created_at=NOW)
    job_id, other = finished(shelf, shelf.project), a_project(shelf, "bob")
    shelf.projects.begin_erasure(*barred, 600)
    before = everything(shelf)
    with pytest.raises(Forbidden):
        shelf.projects.ensure_not_erased("alice", shelf.project.id)
    with pytest.raises(Forbidden):
        shelf.jobs.create(new, 600)
    assert not shelf.jobs.create(lifecycle.create_job(job_id, "p", "alice", NOW, None), 600)
    if place == "user":
        with pytest.raises(Forbidden):
            shelf.projects.create(project, 600)
        with pytest.raises(Forbidden):
            remember(shelf, "alice")
    assert everything(shelf) == before
    assert shelf.new_job(project=other)
    if place == "project":
        assert shelf.projects.create(project, 600)
        shelf.projects.ensure_not_erased("alice", project.id)
    shelf.projects.end_erasure(*barred)
    assert shelf.jobs.create(new, 600)
    assert remember(shelf, "alice")


def test_a_known_idempotency_key_is_answered_during_an_erasure(shelf: Shelf) -> None:
    remember(shelf, "alice")
    shelf.projects.begin_erasure("alice", None, 600)
    remembered = IdempotencyKeys(shelf.client, 600)
    known = remembered.id_for(("alice", "projects", "k"), {}, "another", lambda: None)
    assert known == "an-id"


def test_what_is_erased_by_force_is_named_while_it_is_there_and_no_other(shelf: Shelf) -> None:
    finished(shelf, shelf.project)
    token, named = shelf.unknown(NOW), []
    at_rest_just_now = shelf.unknown(NOW + seconds(1))

    def name(record: Record) -> None:
        assert shelf.jobs.load(record.job.id)
        named.append(record.job.id)
        assert shelf.settle(at_rest_just_now, ClaimEvent.ACCEPTED)

    done = erasure(shelf).erase(Selection(user="alice"), 0, name)
    assert (done.jobs, done.projects, done.left, done.is_complete) == (3, 1, [], True)
    assert named == [token.job_id]
    with pytest.raises(ResourceNotFound):
        shelf.settle(token, ClaimEvent.ACCEPTED)
    shelf.redis.delete(*shelf.redis.keys("*:broker:*"))
    assert left_in(shelf) == set()


def test_force_waits_for_rest_first(shelf: Shelf) -> None:
    token, named = shelf.unknown(), []

    def settle() -> None:
        is_cancelled = lambda: shelf.record(token.job_id).job.status is JobStatus.CANCELLED  # noqa: E731
        wait_until(is_cancelled, 10, "the job is cancelled")
        assert shelf.settle(token, ClaimEvent.ACCEPTED)

    worker = threading.Thread(target=settle)
    worker.start()
    done = erasure(shelf).erase(Selection(user="alice"), 20, named.append)
    worker.join(10)
    assert (done.jobs, named) == (1, [])


def test_an_orphan_is_named_with_its_engine_and_execution(
    shelf: Shelf, app: dict[str, str]
) -> None:
    here, elsewhere = shelf.unknown(), shelf.unknown()
    for token, fields in (
        (here, {"execution_id": "exec-7", "engine": None}),
        (elsewhere, {"engine": "another"}),
    ):

        def give(record: Record, fields: dict[str, Any] = fields) -> Decision[None]:
            change = Change(record, NOW)
            change.update_claim(**fields)
            return change.decision(None)

        shelf.jobs.update(token.job_id, give)
    result = do(app, "erase", "--project", shelf.project.id, "--yes", "--wait", "0", "--force")
    assert result.exit_code == 0, result.output
    start = "orphan: {0.job_id}  CANCELLED  {0.dispatch_id}  UNKNOWN  at "
    assert start.format(here) + "webhook  execution exec-7\n" in result.stderr
    assert start.format(elsewhere) + "another engine\n" in result.stderr
    assert "erased: 2 jobs, 1 projects" in result.stdout


def test_an_erasure_that_fails_lets_be_created_again(shelf: Shelf) -> None:
    shelf.unknown()

    def fail(record: Record) -> None:
        assert shelf.redis.exists(keys.user_erasure("alice"))
        raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        erasure(shelf).erase(Selection(user="alice"), 0, fail)
    assert shelf.new_job()


def test_no_job_is_made_in_a_project_that_is_gone(shelf: Shelf) -> None:
    late = lifecycle.create_job("late", shelf.project.id, "alice", NOW, None)
    assert erasure(shelf).erase(Selection(project_id=shelf.project.id), 1).projects == 1
    assert not shelf.jobs.create(late, 600)
    assert left_in(shelf) == set()


def test_a_project_with_a_job_that_came_after_the_look_stays(shelf: Shelf) -> None:
    job_id = shelf.new_job()
    assert not shelf.projects.delete(shelf.project)
    assert shelf.projects.load(shelf.project.id)
    shelf.jobs.delete(job_id, lambda record: None)
    assert shelf.projects.delete(shelf.project)


def test_what_cannot_be_read_is_named_and_left(shelf: Shelf, app: dict[str, str]) -> None:
    broken = finished(shelf, shelf.project)
    good = finished(shelf, shelf.project)
    shelf.redis.set(keys.job(broken), "{")
    exported = do(app, "export", "--user", "alice")
    assert exported.exit_code == 1
    assert "1 records cannot be read" in exported.stderr
    assert len([json.loads(line) for line in exported.stdout.splitlines()]) == 2
    result = do(app, "erase", "--user", "alice", "--yes", "--wait", "0")
    assert result.exit_code == 1
    assert broken in result.stderr, "the log names it"
    assert (shelf.jobs.load(good), shelf.redis.get(keys.job(broken))) == (None, "{")
    assert shelf.projects.load(shelf.project.id)


def test_an_erasure_that_is_killed_goes_on_where_it_was(shelf: Shelf, app: dict[str, str]) -> None:
    for _ in range(400):
        finished(shelf, shelf.project)
    size = shelf.redis.zcard(keys.user_jobs("alice"))
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "jobs", "erase", "--user", "alice", "--yes"],
        cwd=ROOT, env=clean_environment(app), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(
            lambda: shelf.redis.zcard(keys.user_jobs("alice")) < size - 5, 30, "it has begun"
        )
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait(10)
    assert shelf.redis.zcard(keys.user_jobs("alice")) > 0
    assert 0 < shelf.redis.ttl(keys.user_erasure("alice")) <= 600
    assert do(app, "erase", "--user", "alice", "--yes").exit_code == 0
    assert left_in(shelf) == set()


def test_a_full_redis_takes_nothing_new_and_lets_what_is_at_rest_be_erased(
    shelf: Shelf, app: dict[str, str]
) -> None:
    job_id, waiting = finished(shelf, shelf.project), shelf.uploaded()
    other = a_project(shelf, "bob")
    finished(shelf, other)
    shelf.redis.config_set("maxmemory", "1")
    try:
        for new in (shelf.new_job, lambda: a_project(shelf, "bob"), lambda: shelf.run(waiting)):
            with pytest.raises(StoreUnavailable):
                new()
        assert do(app, "erase", job_id, "--yes").exit_code == 0
        assert do(app, "erase", "--project", other.id, "--yes").exit_code == 0
    finally:
        shelf.redis.config_set("maxmemory", "0")
    assert shelf.jobs.load(job_id) is None
    assert shelf.projects.load(other.id) is None
    assert shelf.run(waiting)


def test_an_export_has_the_projects_and_jobs_with_all_that_is_kept(
    shelf: Shelf, app: dict[str, str]
) -> None:
    job_id = finished(shelf, shelf.project)
    finished(shelf, a_project(shelf, "bob"))
    for number in range(250):  # more than a page of the trail
        shelf.redis.rpush(keys.trail(job_id), shelf.redis.lindex(keys.trail(job_id), number % 3))
    before = everything(shelf)
    result = do(app, "export", "--user", "alice")
    assert result.exit_code == 0, result.output
    project, job = [json.loads(line) for line in result.stdout.splitlines()]
    assert (project["project"]["id"], project["owner"]) == (shelf.project.id, "alice")
    assert (job["job"]["id"], job["owner"]) == (job_id, "alice")
    assert job["job"]["status"] == JobStatus.CANCELLED
    assert [claim["dispatch_id"] for claim in job["claims"]] == [f"run-{job_id}"]
    assert len(job["trail"]) == shelf.redis.llen(keys.trail(job_id)) > 250
    for selection in (["--project", shelf.project.id], [job_id]):
        assert (
            do(app, "export", *selection).stdout.splitlines()[-1] == result.stdout.splitlines()[1]
        )
    assert everything(shelf) == before


def test_an_export_has_the_dispatches_that_a_retry_followed(
    shelf: Shelf, app: dict[str, str]
) -> None:
    job_id = finished(shelf, shelf.project)
    past = shelf.claim(job_id)

    def followed(record: Record) -> object:
        change = lifecycle.Change(record, NOW)
        change.add_past_claim(past)
        return change.decision(None)

    shelf.jobs.update(job_id, followed)  # type: ignore[arg-type]
    (line,) = do(app, "export", job_id).stdout.splitlines()
    assert [claim["epoch"] for claim in json.loads(line)["claims"]] == [1, 1]
