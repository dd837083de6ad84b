"""The operator's commands, against a real store."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from devstack.ports import free_port
from devstack.processes import ROOT, clean_environment
from domain import lifecycle
from domain.audit import EventType
from domain.claim import ClaimEvent, Phase
from domain.job_fsm import JobStatus
from domain.record import Change
from tests.integration.conftest import Command
from tests.support.stores import NOW, POLICY, Database, seconds

FOREVER = replace(POLICY, unknown_hold=None)


def test_list_shows_exactly_the_open_dispatches(database: Database, takeone: Command) -> None:
    unknown, claimed = database.unknown(), database.run(database.uploaded())
    database.accepted()
    lines = takeone("dispatches", "list").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [unknown.job_id, "UNKNOWN", unknown.dispatch_id],
        [claimed.job_id, "CLAIMED", claimed.dispatch_id],
    ]


def test_a_dispatch_is_listed_with_the_time_of_its_post(
    database: Database, takeone: Command
) -> None:
    token = database.run(database.uploaded())
    for now in NOW, NOW + seconds(5):
        assert f"since {now.isoformat()}" in takeone("dispatches", "list").stdout
        database.begin(token, NOW + seconds(5))


def test_list_unknown_shows_only_unknown_outcomes(database: Database, takeone: Command) -> None:
    unknown = database.unknown(policy=FOREVER)
    proved = database.unknown()
    assert database.settle(proved, ClaimEvent.ACCEPTED)
    database.run(database.uploaded())
    lines = takeone("dispatches", "list", "--unknown").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [unknown.job_id]
    assert lines[0].endswith("until it is settled")


def test_list_says_that_no_dispatch_is_open(takeone: Command) -> None:
    for options, said in ((), "open"), (("--unknown",), "unknown"):
        found = takeone("dispatches", "list", *options)
        assert (found.exit_code, found.stdout) == (0, "")
        assert found.stderr == f"no dispatch is {said}\n"


def test_show_and_export_send_no_control_sequence_to_the_terminal(
    database: Database, takeone: Command
) -> None:
    name = "mine \x9b2J \u202e \x7f ä 🎬"
    job_id = database.new_job()
    database.jobs.update(job_id, lambda it: lifecycle.edit(Change(it, NOW, POLICY), {"name": name}))
    for command in "show", "export":
        shown = takeone("jobs", command, job_id).stdout
        assert all(line.isprintable() for line in shown.split("\n"))
        assert "ä 🎬" in shown
        said = json.loads(shown)
        assert said.get("job", said)["name"] == name


def test_show_has_the_claim_and_the_trail(database: Database, takeone: Command) -> None:
    token = database.unknown()
    shown = takeone("dispatches", "show", token.job_id)
    assert shown.exit_code == 0
    job = json.loads(shown.stdout)
    (claim,) = job["claims"]
    assert (claim["dispatch_id"], claim["phase"]) == (token.dispatch_id, "UNKNOWN")
    assert (job["status"], claim["sent_at"]) == ("UPLOADED", "2026-01-01T00:00:00Z")
    events = [event["event_type"] for event in job["events"]]
    for event in (EventType.JOB_CREATED, EventType.CLAIMED, EventType.SENT, EventType.UNKNOWN):
        assert event in events


def test_show_of_a_job_that_was_never_run_has_no_claim(
    database: Database, takeone: Command
) -> None:
    job = json.loads(takeone("dispatches", "show", database.uploaded()).stdout)
    assert (job["dispatch"], job["claims"]) == (None, [])


def test_settling_as_sent_advances_the_job_and_records_the_reason(
    database: Database, takeone: Command
) -> None:
    token = database.unknown()
    longest = "seen in its log".center(500)
    done = takeone("dispatches", "settle", token.job_id, "--as", "sent", "--reason", longest)
    assert done.exit_code == 0, done.output
    assert database.claim(token.job_id).phase is Phase.SENT
    assert database.record(token.job_id).job.status is JobStatus.AUDIO_EXTRACTING
    lines, *_ = database.jobs.trail(token.job_id, 0, 100)
    assert [line.reason for line in lines if line.event_type is EventType.SETTLED] == [
        "seen in its log"
    ]


def test_a_released_job_can_be_run_again_under_the_same_id(
    database: Database, takeone: Command
) -> None:
    token = database.unknown()
    done = takeone(
        "dispatches", "settle", token.job_id, "--as", "release", "--reason", "it was down"
    )
    assert done.exit_code == 0, done.output
    assert database.record(token.job_id).claim is None
    again = database.run(token.job_id)
    assert (again.dispatch_id, again.epoch) == (token.dispatch_id, token.epoch + 1)
    lines, *_ = database.jobs.trail(token.job_id, 0, 100)
    assert "it was down" in [line.reason for line in lines]


@pytest.mark.parametrize("outcome", ["sent", "release"])
@pytest.mark.parametrize("phase", ["none", "CLAIMED", "SENDING", "SENT"])
def test_only_an_unknown_outcome_can_be_settled(
    database: Database, takeone: Command, phase: str, outcome: str
) -> None:
    job_id = database.uploaded()
    if phase != "none":
        token = database.run(job_id)
    if phase in ("SENDING", "SENT"):
        assert database.begin(token)
    if phase == "SENT":
        assert database.settle(token, ClaimEvent.ACCEPTED)
    before = database.jobs.load(job_id)
    refused = takeone("dispatches", "settle", job_id, "--as", outcome, "--reason", "why")
    assert refused.exit_code == 1
    assert "nothing to settle" in refused.stderr
    assert database.jobs.load(job_id) == before


def test_a_missing_job_is_an_error_that_names_it(takeone: Command) -> None:
    settle = ["settle", "missing", "--as", "sent", "--reason", "x"]
    for arguments in (["show", "missing"], settle):
        missing = takeone("dispatches", *arguments)
        assert missing.exit_code == 1
        assert "no job missing" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("silent", "no job is silent"),
        ("retry --failed-since 1h", "there is no such job"),
        ("export --user bob", "there is no such job or project"),
        ("export --project missing", "there is no such job or project"),
    ],
)
def test_a_list_without_jobs_says_so(
    database: Database, takeone: Command, arguments: str, said: str
) -> None:
    database.uploaded()
    listed = takeone("jobs", *arguments.split())
    assert (listed.exit_code, listed.stdout, listed.stderr) == (0, "", f"{said}\n")


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
def test_a_reason_must_be_one_short_line(database: Database, takeone: Command, reason: str) -> None:
    token = database.unknown()
    refused = takeone("dispatches", "settle", token.job_id, "--as", "sent", "--reason", reason)
    assert refused.exit_code == 2
    assert database.claim(token.job_id).phase is Phase.UNKNOWN


def test_settle_requires_an_outcome_and_a_reason(database: Database, takeone: Command) -> None:
    token = database.unknown()
    assert takeone("dispatches", "settle", token.job_id, "--as", "sent").exit_code == 2
    assert takeone("dispatches", "settle", token.job_id, "--reason", "x").exit_code == 2
    assert database.claim(token.job_id).phase is Phase.UNKNOWN


def test_an_unavailable_store_is_one_line_of_error(takeone: Command) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    failed = takeone("dispatches", "list", TAKEONE_REDIS_URL=url)
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: the store does not serve")


def test_the_module_runs_as_a_program(database: Database) -> None:
    token = database.unknown()
    settings = {
        "TAKEONE_ENV": "development",
        "TAKEONE_REDIS_URL": database.url,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "dispatches", "list"],
        cwd=ROOT, env=clean_environment(settings),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert token.job_id in done.stdout
    assert NOW.strftime("%Y-%m-%d") in done.stdout
