"""The operator's commands, against a real store."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from devstack.ports import free_port
from devstack.processes import ROOT, clean_environment
from domain.audit import EventType
from domain.claim import ClaimEvent, Phase
from domain.job_fsm import JobStatus
from settings import load_store_settings
from tests.support.stores import NOW, POLICY, Shelf

FOREVER = replace(POLICY, unknown_hold=None)


def _environment(redis_url: str) -> dict[str, str]:
    return {
        "TAKEONE_ENV": "development",
        "TAKEONE_REDIS_URL": redis_url,
        "TAKEONE_REDIS_TIMEOUT_SECONDS": "0.5",
    }


@pytest.fixture
def app(shelf: Shelf) -> Iterator[dict[str, str]]:
    """The environment in which the command works on the shelf's store."""
    yield _environment(shelf.url)
    load_store_settings.cache_clear()


def _do(app: dict[str, str], *arguments: str) -> Result:
    load_store_settings.cache_clear()
    return CliRunner().invoke(main, ["dispatches", *arguments], env=app)


def test_the_list_names_what_is_open_and_nothing_else(shelf: Shelf, app: dict[str, str]) -> None:
    unknown, claimed = shelf.unknown(), shelf.run(shelf.uploaded())
    accepted = shelf.run(shelf.uploaded())
    assert shelf.begin(accepted)
    assert shelf.settle(accepted, ClaimEvent.ACCEPTED)  # its index entry is not yet dropped
    lines = _do(app, "list").stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [unknown.job_id, "UNKNOWN", unknown.dispatch_id],
        [claimed.job_id, "CLAIMED", claimed.dispatch_id],
    ]


def test_the_list_of_unknown_outcomes_has_only_those(shelf: Shelf, app: dict[str, str]) -> None:
    unknown = shelf.unknown(policy=FOREVER)
    proved = shelf.unknown()
    assert shelf.settle(proved, ClaimEvent.ACCEPTED)
    shelf.run(shelf.uploaded())
    lines = _do(app, "list", "--unknown").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [unknown.job_id]
    assert lines[0].endswith("until it is settled")


def test_the_list_of_nothing_says_so(app: dict[str, str]) -> None:
    found = _do(app, "list")
    assert (found.exit_code, found.stdout) == (0, "")
    assert found.stderr == "no dispatch is open\n"


def test_show_tells_the_claim_and_the_trail(shelf: Shelf, app: dict[str, str]) -> None:
    token = shelf.unknown()
    shown = _do(app, "show", token.job_id)
    assert shown.exit_code == 0
    job = json.loads(shown.stdout)
    (claim,) = job["claims"]
    assert (claim["dispatch_id"], claim["phase"]) == (token.dispatch_id, "UNKNOWN")
    assert (job["status"], claim["sent_at"]) == ("UPLOADED", "2026-01-01T00:00:00Z")
    events = [event["event_type"] for event in job["events"]]
    for event in (EventType.JOB_CREATED, EventType.CLAIMED, EventType.SENT, EventType.UNKNOWN):
        assert event in events


def test_show_of_a_job_that_was_never_run(shelf: Shelf, app: dict[str, str]) -> None:
    job = json.loads(_do(app, "show", shelf.uploaded()).stdout)
    assert (job["dispatch"], job["claims"]) == (None, [])


def test_settled_as_sent_the_job_moves_on_and_the_reason_stands_on_the_trail(
    shelf: Shelf, app: dict[str, str]
) -> None:
    token = shelf.unknown()
    done = _do(app, "settle", token.job_id, "--as", "sent", "--reason", "seen in its log")
    assert done.exit_code == 0, done.output
    assert shelf.claim(token.job_id).phase is Phase.SENT
    assert shelf.record(token.job_id).job.status is JobStatus.AUDIO_EXTRACTING
    lines, *_ = shelf.jobs.trail(token.job_id, 0, 100)
    assert [line.reason for line in lines if line.event_type is EventType.SETTLED] == [
        "seen in its log"
    ]


def test_released_the_job_may_be_run_again_under_the_same_id(
    shelf: Shelf, app: dict[str, str]
) -> None:
    token = shelf.unknown()
    done = _do(app, "settle", token.job_id, "--as", "release", "--reason", "it was down")
    assert done.exit_code == 0, done.output
    assert shelf.record(token.job_id).claim is None
    again = shelf.run(token.job_id)
    assert (again.dispatch_id, again.epoch) == (token.dispatch_id, token.epoch + 1)
    lines, *_ = shelf.jobs.trail(token.job_id, 0, 100)
    assert "it was down" in [line.reason for line in lines]


@pytest.mark.parametrize("outcome", ["sent", "release"])
@pytest.mark.parametrize("phase", ["none", "CLAIMED", "SENDING", "SENT"])
def test_what_is_not_an_operators_to_settle_is_left_as_it_is(
    shelf: Shelf, app: dict[str, str], phase: str, outcome: str
) -> None:
    job_id = shelf.uploaded()
    if phase != "none":
        token = shelf.run(job_id)
    if phase in ("SENDING", "SENT"):
        assert shelf.begin(token)
    if phase == "SENT":
        assert shelf.settle(token, ClaimEvent.ACCEPTED)
    before = shelf.jobs.load(job_id)
    refused = _do(app, "settle", job_id, "--as", outcome, "--reason", "a try")
    assert refused.exit_code == 1
    assert "nothing to settle" in refused.stderr
    assert shelf.jobs.load(job_id) == before


def test_a_job_that_is_not_there_is_said_to_be_so(app: dict[str, str]) -> None:
    for arguments in (["show", "missing"], ["settle", "missing", "--as", "sent", "--reason", "x"]):
        missing = _do(app, *arguments)
        assert missing.exit_code == 1
        assert "no job missing" in missing.stderr


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 501])
def test_a_reason_is_one_line_of_bounded_length(
    shelf: Shelf, app: dict[str, str], reason: str
) -> None:
    token = shelf.unknown()
    refused = _do(app, "settle", token.job_id, "--as", "sent", "--reason", reason)
    assert refused.exit_code == 2
    assert shelf.claim(token.job_id).phase is Phase.UNKNOWN


def test_a_settlement_needs_an_outcome_and_a_reason(shelf: Shelf, app: dict[str, str]) -> None:
    token = shelf.unknown()
    assert _do(app, "settle", token.job_id, "--as", "sent").exit_code == 2
    assert _do(app, "settle", token.job_id, "--reason", "x").exit_code == 2
    assert shelf.claim(token.job_id).phase is Phase.UNKNOWN


def test_a_store_that_is_away_is_said_in_one_line() -> None:
    failed = _do(_environment(f"redis://127.0.0.1:{free_port()}/0"), "list")
    assert failed.exit_code == 1
    assert failed.stderr.startswith("Error: the store does not serve")


def test_the_command_runs_as_a_program(shelf: Shelf) -> None:
    token = shelf.unknown()
    settings = {"TAKEONE_ENV": "development", "TAKEONE_REDIS_URL": shelf.url}
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "dispatches", "list"],
        cwd=ROOT,
        env=clean_environment({**settings, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert token.job_id in done.stdout
    assert NOW.strftime("%Y-%m-%d") in done.stdout
