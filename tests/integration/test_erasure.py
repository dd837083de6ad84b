"""Export and erasure of a user, a project or a job, on a real store."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from devstack.processes import ROOT, clean_environment
from devstack.waiting import wait_until
from domain import lifecycle
from domain.claim import ClaimEvent, DispatchPolicy
from domain.errors import Forbidden, ResourceNotFound
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record
from services.erasure import Erasure, Selection
from store import keys
from store.errors import StoreUnavailable
from store.idempotency import IdempotencyKeys
from store.lists import record_id
from tests.integration.conftest import Command
from tests.support.stores import NOW, POLICY, Database, seconds

PLANTED = "planted-user"


def create_project(database: Database, owner: str) -> Project:
    project = Project(id=str(uuid4()), name=f"{owner}'s", owner=owner, created_at=NOW)
    assert database.projects.create(project, 600)
    return project


def cancelled_job(database: Database, project: Project) -> str:
    """Make a job that was run, accepted and cancelled, and so is at rest; return its id."""
    job_id = database.new_job(project=project)
    database.jobs.update(
        job_id, lambda r: lifecycle.confirm_upload(Change(r, NOW, POLICY, "c"), "s3://planted")
    )
    token = database.run(job_id)
    assert database.begin(token)
    assert database.settle(token, ClaimEvent.ACCEPTED)
    database.jobs.update(job_id, lambda r: lifecycle.cancel(Change(r, NOW, POLICY)))
    return job_id


def use_key(database: Database, user: str) -> str:
    """Let a user use an idempotency key; return the name of its Redis key."""
    before = set(database.redis.keys())
    IdempotencyKeys(database.client, 600).id_for((user, "projects", "k"), {}, "an-id", lambda: None)
    (name,) = set(database.redis.keys()) - before
    return str(name)


def erasure(database: Database, policy: DispatchPolicy = POLICY) -> Erasure:
    idempotency_keys = IdempotencyKeys(database.client, 600)
    return Erasure(database.jobs, database.projects, idempotency_keys, policy, lambda: NOW)


def remaining_keys(database: Database) -> set[str]:
    """All keys except the markers of used ids and the queues."""
    names = database.redis.keys()
    return {name for name in names if not name.endswith(":made") and ":broker:" not in name}


def dump(database: Database) -> dict[str, bytes]:
    """All keys with their values."""
    return {name: database.redis.dump(name) for name in database.redis.scan_iter()}


def test_erasing_a_user_removes_everything_of_theirs_and_nothing_else(
    database: Database, takeone: Command
) -> None:
    cancelled_job(database, database.project)
    use_key(database, "alice")
    others = {name: database.redis.dump(name) for name in remaining_keys(database)}
    project, empty = create_project(database, PLANTED), create_project(database, PLANTED)
    for _ in range(3):
        cancelled_job(database, project)
    expired = cancelled_job(database, project)  # only in lists
    database.redis.delete(*database.redis.keys(f"takeone:{{{expired}}}:*"))
    use_key(database, PLANTED)
    result = takeone("jobs", "erase", "--user", PLANTED, "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "3 jobs, 0 of them not at rest; 2 projects",
        "erased: 3 jobs, 2 projects; forgotten: 1 idempotency keys",
        "the last look found nothing",
    ]
    assert {name: database.redis.dump(name) for name in remaining_keys(database)} == others
    assert database.projects.load(empty.id) is None
    assert takeone("jobs", "erase", "--user", PLANTED, "--yes").exit_code == 0, "it can be repeated"


def test_erasing_a_project_keeps_the_owners_other_projects_and_keys(
    database: Database, takeone: Command
) -> None:
    kept, project = cancelled_job(database, database.project), create_project(database, "alice")
    cancelled_job(database, project)
    name = use_key(database, "alice")
    assert takeone("jobs", "erase", "--project", project.id, "--yes").exit_code == 0
    assert database.projects.load(project.id) is None
    assert database.jobs.load(kept)
    assert database.redis.exists(name)
    found = database.redis.zrange(keys.user_projects("alice"), 0, -1)
    assert [record_id(entry) for entry in found] == [database.project.id]


def test_erasing_a_job_keeps_its_project(database: Database, takeone: Command) -> None:
    job_id = cancelled_job(database, database.project)
    assert takeone("jobs", "erase", job_id, "--yes").exit_code == 0
    assert database.jobs.load(job_id) is None
    assert database.projects.load(database.project.id)
    again = takeone("jobs", "erase", job_id, "--yes")
    assert again.exit_code == 1
    assert f"there is no job {job_id}" in again.stderr


def test_a_dry_run_or_a_declined_prompt_erases_nothing(
    database: Database, takeone: Command
) -> None:
    cancelled_job(database, database.project)
    database.unknown()
    before = dump(database)
    dry = takeone("jobs", "erase", "--user", "alice", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "2 jobs, 1 of them not at rest; 1 projects\n")
    assert takeone("jobs", "erase", "--user", "alice", typed="n\n").exit_code == 1
    assert takeone("jobs", "erase", "--user", "alice").exit_code == 1, "no input"
    assert dump(database) == before
    assert (
        takeone(
            "jobs", "erase", "--project", database.project.id, "--wait", "0", typed="y\n"
        ).exit_code
        == 1
    )
    assert dump(database) != before


@pytest.mark.parametrize("wrong", [[], ["an-id", "--user", "u"], ["--user", "u", "--project", "p"]])
def test_exactly_one_selection_is_required(takeone: Command, wrong: list[str]) -> None:
    for command in ("erase", "export"):
        assert takeone("jobs", command, *wrong).exit_code == 2


def test_a_job_that_does_not_come_to_rest_is_cancelled_listed_and_kept(
    database: Database, takeone: Command
) -> None:
    token, waiting = database.unknown(), database.uploaded()
    result = takeone("jobs", "erase", "--user", "alice", "--yes", "--wait", "0")
    assert result.exit_code == 1
    at = f"left: {token.job_id}  CANCELLED  {token.dispatch_id}  UNKNOWN  at webhook"
    assert at in result.stderr
    assert "erased: 1 jobs, 0 projects" in result.stdout
    assert database.jobs.load(waiting) is None, "a job that was never run is at rest once cancelled"
    assert database.projects.load(database.project.id), "it still has a job"
    events, *_ = database.jobs.trail(token.job_id, 0, 100)
    assert events[-1].actor == "system"
    assert database.new_job(), "the erasure has ended"
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert takeone("jobs", "erase", "--user", "alice", "--yes").exit_code == 0
    assert database.projects.load(database.project.id) is None


def test_erase_waits_until_the_orchestrator_is_notified_of_a_cancel(database: Database) -> None:
    token = database.accepted()

    def notify() -> None:
        wait_until(lambda: database.claim(token.job_id).cancel_due, 10, "the job is cancelled")
        database.jobs.update(
            token.job_id,
            lambda r: lifecycle.cancel_notified(Change(r, NOW, POLICY), token, "done", True),
        )

    worker = threading.Thread(target=notify)
    worker.start()
    done = erasure(database, replace(POLICY, can_cancel=True)).erase(Selection(user="alice"), 20)
    worker.join(10)
    assert (done.jobs, done.projects, done.left) == (1, 1, [])


def test_jobs_not_at_rest_are_refused_without_the_orchestrators_settings(
    database: Database, takeone: Command
) -> None:
    job_id = database.unknown().job_id
    revision = database.record(job_id).revision
    result = takeone("jobs", "erase", job_id, "--yes", TAKEONE_ENV="production")
    assert result.exit_code == 1
    assert "do not name the orchestrator" in result.stderr
    assert database.record(job_id).revision == revision
    at_rest = cancelled_job(database, database.project)
    done = takeone("jobs", "erase", at_rest, "--yes", TAKEONE_ENV="production")
    assert (done.exit_code, database.jobs.load(at_rest)) == (0, None)


def test_jobs_created_during_an_erasure_are_erased_too(database: Database) -> None:
    for _ in range(20):
        cancelled_job(database, database.project)
    created: list[bool] = []

    def create() -> None:
        for number in range(200):
            job_id = f"new-{number}"
            new = lifecycle.create_job(job_id, database.project.id, "alice", NOW, None)
            # As if a pass took longer than creation is blocked.
            database.projects.end_erasure("alice", None)
            with suppress(Forbidden):
                created.append(database.jobs.create(new, 600))

    creating = threading.Thread(target=create)
    creating.start()
    wait_until(lambda: len(created) > 5, 10, "jobs are created")
    done = erasure(database).erase(Selection(user="alice"), 1)
    creating.join(20)
    assert done.is_complete
    assert (done.jobs, done.projects) == (20 + sum(created), 1)
    assert done.jobs > 30, "some were created after it had begun"
    assert remaining_keys(database) == set()


@pytest.mark.parametrize("erased", ["user", "project"])
def test_creating_during_an_erasure_is_forbidden_and_writes_nothing(
    database: Database, erased: str
) -> None:
    selection = ("alice", None) if erased == "user" else (None, database.project.id)
    new = lifecycle.create_job("new", database.project.id, "alice", NOW, None)
    project = Project(id="a-project", name="P", owner="alice", created_at=NOW)
    job_id, other = cancelled_job(database, database.project), create_project(database, "bob")
    database.projects.begin_erasure(*selection, 600)
    before = dump(database)
    with pytest.raises(Forbidden):
        database.projects.ensure_not_erased("alice", database.project.id)
    with pytest.raises(Forbidden):
        database.jobs.create(new, 600)
    assert not database.jobs.create(lifecycle.create_job(job_id, "p", "alice", NOW, None), 600)
    if erased == "user":
        with pytest.raises(Forbidden):
            database.projects.create(project, 600)
        with pytest.raises(Forbidden):
            use_key(database, "alice")
    assert dump(database) == before
    assert database.new_job(project=other)
    if erased == "project":
        assert database.projects.create(project, 600)
        database.projects.ensure_not_erased("alice", project.id)
    database.projects.end_erasure(*selection)
    assert database.jobs.create(new, 600)
    assert use_key(database, "alice")


def test_a_known_idempotency_key_replays_during_an_erasure(database: Database) -> None:
    use_key(database, "alice")
    database.projects.begin_erasure("alice", None, 600)
    idempotency_keys = IdempotencyKeys(database.client, 600)
    known = idempotency_keys.id_for(("alice", "projects", "k"), {}, "another", lambda: None)
    assert known == "an-id"


def test_on_orphan_is_called_for_each_job_erased_by_force_before_it_is_deleted(
    database: Database,
) -> None:
    cancelled_job(database, database.project)
    token, orphans = database.unknown(NOW), []
    later = database.unknown(NOW + seconds(1))

    def on_orphan(record: Record) -> None:
        assert database.jobs.load(record.job.id)
        orphans.append(record.job.id)
        assert database.settle(later, ClaimEvent.ACCEPTED), "it comes to rest in time"

    done = erasure(database).erase(Selection(user="alice"), 0, on_orphan)
    assert (done.jobs, done.projects, done.left, done.is_complete) == (3, 1, [], True)
    assert orphans == [token.job_id]
    with pytest.raises(ResourceNotFound):
        database.settle(token, ClaimEvent.ACCEPTED)
    database.redis.delete(*database.redis.keys("*:broker:*"))
    assert remaining_keys(database) == set()


def test_force_first_waits_for_jobs_to_come_to_rest(database: Database) -> None:
    token, orphans = database.unknown(), []

    def settle() -> None:
        job = lambda: database.record(token.job_id).job  # noqa: E731
        wait_until(lambda: job().status is JobStatus.CANCELLED, 10, "the job is cancelled")
        assert database.settle(token, ClaimEvent.ACCEPTED)

    worker = threading.Thread(target=settle)
    worker.start()
    done = erasure(database).erase(Selection(user="alice"), 20, orphans.append)
    worker.join(10)
    assert (done.jobs, orphans) == (1, [])


def test_what_is_left_or_orphaned_is_listed_with_its_engine_and_execution(
    database: Database, takeone: Command
) -> None:
    here, elsewhere = database.unknown(), database.unknown()
    for token, fields in (
        # An execution's id is what the engine said, also a terminal's control sequence.
        (here, {"execution_id": "exec-7\x1b[2J\n", "engine": None}),
        (elsewhere, {"engine": "another"}),
    ):

        def edit(record: Record, fields: dict[str, Any] = fields) -> Decision[None]:
            change = Change(record, NOW, POLICY)
            change.update_claim(**fields)
            return change.decision(None)

        database.jobs.update(token.job_id, edit)
    command = ("jobs", "erase", "--project", database.project.id, "--yes", "--wait", "0")
    for options, exit_code, what in ((), 1, "left"), (("--force",), 0, "orphan"):
        result = takeone(*command, *options)
        assert result.exit_code == exit_code, result.output
        start = what + ": {0.job_id}  CANCELLED  {0.dispatch_id}  UNKNOWN  at "
        assert start.format(here) + "webhook  execution exec-7\\u001b[2J\\n\n" in result.stderr
        assert start.format(elsewhere) + "another engine\n" in result.stderr
    assert "erased: 2 jobs, 1 projects" in result.stdout


def test_creation_is_allowed_again_after_a_failed_erasure(database: Database) -> None:
    database.unknown()

    def fail(record: Record) -> None:
        assert database.redis.exists(keys.erasure("alice"))
        raise StoreUnavailable

    with pytest.raises(StoreUnavailable):
        erasure(database).erase(Selection(user="alice"), 0, fail)
    assert database.new_job()


def test_no_job_is_created_in_a_deleted_project(database: Database) -> None:
    late = lifecycle.create_job("late", database.project.id, "alice", NOW, None)
    assert erasure(database).erase(Selection(project_id=database.project.id), 1).projects == 1
    assert not database.jobs.create(late, 600)
    assert remaining_keys(database) == set()


def test_a_project_with_a_job_is_not_deleted(database: Database) -> None:
    job_id = database.new_job()
    assert not database.projects.delete(database.project)
    assert database.projects.load(database.project.id)
    database.delete(job_id)
    assert database.projects.delete(database.project)


def test_an_unreadable_record_is_reported_and_kept(database: Database, takeone: Command) -> None:
    broken = cancelled_job(database, database.project)
    good = cancelled_job(database, database.project)
    database.redis.set(keys.job(broken), "{")
    exported = takeone("jobs", "export", "--user", "alice")
    assert exported.exit_code == 1
    assert "1 records cannot be read" in exported.stderr
    assert len([json.loads(line) for line in exported.stdout.splitlines()]) == 2
    counted = takeone("jobs", "erase", "--user", "alice", "--dry-run")
    assert (counted.exit_code, counted.stdout) == (1, "1 jobs, 0 of them not at rest; 1 projects\n")
    result = takeone("jobs", "erase", "--user", "alice", "--yes", "--wait", "0")
    assert result.exit_code == 1
    assert "1 records cannot be read" in result.stderr
    assert broken in result.stderr, "it is in the log"
    assert (database.jobs.load(good), database.redis.get(keys.job(broken))) == (None, "{")
    assert database.projects.load(database.project.id)


def test_an_export_that_can_read_nothing_says_only_that(
    database: Database, takeone: Command
) -> None:
    broken = cancelled_job(database, database.project)
    for name in keys.job(broken), keys.project(database.project.id):
        database.redis.set(name, "{")
    exported = takeone("jobs", "export", "--user", "alice")
    assert (exported.exit_code, exported.stdout) == (1, "")
    assert exported.stderr.endswith("Error: 2 records cannot be read by this release\n")
    assert "there is no" not in exported.stderr


def test_a_killed_erasure_is_continued_by_the_same_command(
    database: Database, takeone: Command
) -> None:
    for _ in range(400):
        cancelled_job(database, database.project)
    size = database.redis.zcard(keys.user_jobs("alice"))
    settings = {"TAKEONE_ENV": "development", "TAKEONE_REDIS_URL": database.url}
    environment = clean_environment(settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "jobs", "erase", "--user", "alice", "--yes"],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(
            lambda: database.redis.zcard(keys.user_jobs("alice")) < size - 5, 30, "it has begun"
        )
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait(10)
    assert database.redis.zcard(keys.user_jobs("alice")) > 0
    assert 0 < database.redis.ttl(keys.erasure("alice")) <= 600
    assert takeone("jobs", "erase", "--user", "alice", "--yes").exit_code == 0
    assert remaining_keys(database) == set()


def test_with_a_full_redis_jobs_at_rest_can_be_erased_and_nothing_created(
    database: Database, takeone: Command
) -> None:
    job_id, waiting = cancelled_job(database, database.project), database.uploaded()
    other = create_project(database, "bob")
    cancelled_job(database, other)
    database.redis.config_set("maxmemory", "1")
    try:
        for new in (
            database.new_job,
            lambda: create_project(database, "bob"),
            lambda: database.run(waiting),
        ):
            with pytest.raises(StoreUnavailable):
                new()
        assert takeone("jobs", "erase", job_id, "--yes").exit_code == 0
        assert takeone("jobs", "erase", "--project", other.id, "--yes").exit_code == 0
    finally:
        database.redis.config_set("maxmemory", "0")
    assert database.jobs.load(job_id) is None
    assert database.projects.load(other.id) is None
    assert database.run(waiting)


def test_with_a_full_redis_a_job_that_cannot_be_cancelled_does_not_keep_the_others(
    database: Database, takeone: Command
) -> None:
    at_rest = [cancelled_job(database, database.project)]
    running = database.accepted().job_id
    at_rest.append(cancelled_job(database, database.project))
    command = ("jobs", "erase", "--user", "alice", "--yes", "--wait", "0")
    database.redis.config_set("maxmemory", "1")
    try:
        # The cancel has to be told to the orchestrator, which takes a message.
        result = takeone(*command, TAKEONE_ORCHESTRATOR_CANCEL_URL="http://127.0.0.1:9/cancel")
    finally:
        database.redis.config_set("maxmemory", "0")
    assert result.exit_code == 1
    assert f"left: {running}  AUDIO_EXTRACTING" in result.stderr
    assert list(map(database.jobs.load, at_rest)) == [None, None]
    assert database.jobs.load(running)


def test_an_export_has_all_that_is_kept_of_projects_and_jobs(
    database: Database, takeone: Command
) -> None:
    job_id = cancelled_job(database, database.project)
    cancelled_job(database, create_project(database, "bob"))
    for number in range(250):  # more than a page of the trail
        database.redis.rpush(
            keys.trail(job_id), database.redis.lindex(keys.trail(job_id), number % 3)
        )
    before = dump(database)
    result = takeone("jobs", "export", "--user", "alice")
    assert result.exit_code == 0, result.output
    project, job = [json.loads(line) for line in result.stdout.splitlines()]
    assert (project["project"]["id"], project["owner"]) == (database.project.id, "alice")
    assert (job["job"]["id"], job["owner"]) == (job_id, "alice")
    assert job["job"]["status"] == JobStatus.CANCELLED
    assert [claim["dispatch_id"] for claim in job["claims"]] == [f"run-{job_id}"]
    assert len(job["trail"]) == database.redis.llen(keys.trail(job_id)) > 250
    for selection in (["--project", database.project.id], [job_id]):
        assert (
            takeone("jobs", "export", *selection).stdout.splitlines()[-1]
            == result.stdout.splitlines()[1]
        )
    assert dump(database) == before


def test_an_export_has_the_past_claims(database: Database, takeone: Command) -> None:
    job_id = cancelled_job(database, database.project)
    past = database.claim(job_id)

    def keep(record: Record) -> Decision[None]:
        change = Change(record, NOW, POLICY)
        change.add_past_claim(past)
        return change.decision(None)

    database.jobs.update(job_id, keep)
    (line,) = takeone("jobs", "export", job_id).stdout.splitlines()
    assert [claim["epoch"] for claim in json.loads(line)["claims"]] == [1, 1]
