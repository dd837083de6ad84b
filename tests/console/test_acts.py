"""What an operator does on the page, what the page says before and after, and what is on record then."""

from typing import Any

import pytest

from devstack.stack import STOP_SECONDS
from devstack.waiting import wait_until
from tests.console.conftest import Console, NewConsole
from tests.console.night import Night
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle

REASON = "The engine was down. <b>Olga</b>"


def act(console: Console, button: str, reason: str = REASON) -> str:
    """Press a button, give a reason, act, and return what the page says then."""
    console.click("button", button)
    console.see("dialog.act .consequences li")
    if reason:
        console.fill("dialog.act textarea", reason)
    console.click("dialog.act button[type=submit]")
    console.see("dialog.act button", "Close")
    told = console.text("dialog.act [role=status]")
    console.click("dialog.act button", "Close")
    return told


def reasons_seen_by_owner(handle: JobHandle) -> set[str | None]:
    """The reasons of the operator's events on the trail, as the job's owner sees it."""
    events = [each for each in handle.trail() if each["actor_type"] == "operator"]
    assert "olga" not in str(events)
    return {each.get("reason") for each in events}


@pytest.mark.parametrize(
    ("button", "told", "status", "phase"),
    [
        ("Settle as sent", "AUDIO_EXTRACTING", "AUDIO_EXTRACTING", "SENT"),
        ("Settle as not arrived", "RELEASED", "UPLOADED", "RELEASED"),
        ("Cancel", "CANCELLED", "CANCELLED", "UNKNOWN"),
    ],
)
def test_an_unknown_outcome_is_settled_or_its_job_cancelled(
    button: str, told: str, status: str, phase: str, olga: Console, night: Night
) -> None:
    handle = night.unknown()
    olga.go(f"/jobs/{handle.id}")
    assert told in act(olga, button)
    olga.see(".facts .badge", status)
    assert (handle.status, handle.dispatch["phase"]) == (status, phase)
    operators = olga.see(".timeline li", "operator olga").text
    assert REASON in operators
    assert REASON in reasons_seen_by_owner(handle)


def test_a_job_is_failed(olga: Console, night: Night) -> None:
    handle = night.job().lead_to("TRANSCRIBING")
    olga.go(f"/jobs/{handle.id}")
    assert "FAILED" in act(olga, "Fail")
    olga.see(".facts dd", "FAILED_BY_OPERATOR")
    assert handle.status == "FAILED"


def test_an_orchestrator_that_cannot_be_asked_is_said_to_be_so(olga: Console, night: Night) -> None:
    handle = night.unknown()
    olga.go(f"/jobs/{handle.id}").click("#act-ask")
    olga.click("dialog.act button[type=submit]")
    olga.see("dialog.act [role=status]", "CANNOT_BE_ASKED")
    olga.photograph("refused_act")
    olga.click("dialog.act button", "Go back")
    assert handle.dispatch["phase"] == "UNKNOWN"


def test_a_refusal_leaves_what_was_entered(olga: Console, night: Night) -> None:
    handle = night.job().lead_to("AUDIO_EXTRACTING")
    olga.go(f"/jobs/{handle.id}").click("#act-cancel")
    olga.fill("dialog.act textarea", "Too late")
    handle.client.cancel(handle.id)
    olga.click("dialog.act button[type=submit]")
    olga.see("dialog.act [role=status]", "FSM_TERMINAL_IMMUTABLE")
    assert olga.see("dialog.act textarea").get_attribute("value") == "Too late"
    olga.click("dialog.act button", "Go back")
    olga.wait(lambda: not olga.all("#act-cancel"), "a job that has ended is not to be cancelled")


def test_without_a_reason_nothing_is_done(olga: Console, night: Night) -> None:
    handle = night.job()
    olga.go(f"/jobs/{handle.id}").click("#act-cancel")
    olga.fill("dialog.act textarea", "   ")
    olga.click("dialog.act button[type=submit]")
    olga.see("dialog.act [role=status]", "Give a reason first")
    olga.click("dialog.act button", "Go back")
    assert handle.status == "UPLOADED"


def test_dispatching_is_paused_and_every_page_says_so(olga: Console, night: Night) -> None:
    handle = night.job()
    olga.go("/")
    assert "is paused since" in act(olga, "Pause dispatching")
    try:
        for place in ("/", "/jobs?view=failed", f"/jobs/{handle.id}", "/retries"):
            olga.go(place).see("#pause", f"by olga: {REASON}")
        olga.go("/jobs?view=in_flight")
        night.orchestrator.behaviours[handle.id] = accept()
        assert handle.client.run(handle.id, headers={"Prefer": "wait=0"}).status_code == 202
        olga.go("/").click(".tile", "In flight")
        olga.see("li.row", handle.id)
        olga.photograph("paused")
        assert night.orchestrator.requests_for(handle.id) == []
    finally:
        act(olga, "Resume", "")
    olga.wait(
        lambda: not olga.see("body").find_elements("css selector", "#pause:not([hidden])"),
        "it is over",
    )
    wait_until(lambda: handle.status == "AUDIO_EXTRACTING", 15, "what waited is sent")


def test_all_that_failed_is_retried_after_a_dry_run(olga: Console, night: Night) -> None:
    jobs = [night.failed("rita", "NO_GPU") for _ in range(3)]
    running = night.failed("rita", "NO_GPU")
    assert running.retry("by-the-owner").status_code == 202
    olga.go("/retries")
    olga.fill("input[name=failure_code]", "NO_GPU")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "The dry run found 4 jobs")
    outcomes = [each.text for each in olga.all("main li.row")]
    assert sum("started" in each for each in outcomes) == 3
    assert sum("JOB_ALREADY_RUNNING" in each for each in outcomes) == 1
    assert [len(each.trail()) for each in jobs] == [len(jobs[0].trail())] * 3
    assert not [each for each in jobs if each.dispatch["kind"] == "retry"], (
        "a dry run starts nothing"
    )
    olga.photograph("dry_run")
    told = act(olga, "Retry 4")
    assert "3 started" in told
    assert "1 refused" in told
    olga.see("main h2", "Results")
    for handle in jobs:
        wait_until(lambda each=handle: each.dispatch["phase"] == "SENT", 15, "it is sent")
        assert len(night.orchestrator.requests_for(handle.id)) == 2
    olga.click("button", "Dry run")
    olga.see("main li.row", "replayed")
    olga.fill("input[name=failure_code]", "ANOTHER")
    assert olga.all("#retry-all") == [], "what was not dried cannot be retried"


def test_one_failed_job_is_retried_from_its_page(olga: Console, night: Night) -> None:
    handle, later = night.failed("one"), night.failed("one")
    olga.go(f"/jobs/{handle.id}").click("#act-retry")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "The dry run found 1 job")
    olga.see("main li.row", handle.id)
    assert "1 started" in act(olga, "Retry 1")
    assert later.dispatch["kind"] == "run"


def test_a_profile_that_is_not_allowed_is_explained(olga: Console) -> None:
    olga.go("/retries")
    olga.fill("input[name=model_profile]", "fastest")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "model_profile: Must be one of: standard, fast, quality")


def test_an_act_whose_answer_is_lost_may_be_tried_again(
    night: Night, new_console: NewConsole, new_stack: Any
) -> None:
    with new_stack(workers=0) as fragile:
        alice = ApiClient(fragile.api_url, "alice")
        job_id = alice.uploaded_job()["id"]
        console = new_console(fragile).load(f"/jobs/{job_id}").sign_in("olga", "operator")
        console.click("#act-cancel")
        console.fill("dialog.act textarea", REASON)
        fragile.webs[0].terminate(STOP_SECONDS)
        console.click("dialog.act button[type=submit]")
        console.see("dialog.act [role=status]", "It is safe to try again")
        fragile.restart(fragile.webs[0])
        console.click("dialog.act button[type=submit]")
        console.see("dialog.act [role=status]", "CANCELLED")
        assert alice.job(job_id).json()["status"] == "CANCELLED"
