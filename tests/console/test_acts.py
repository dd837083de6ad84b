"""An operator's acts: what the page shows before and after, and what is recorded."""

import json

import pytest

from devstack.stack import STOP_SECONDS
from devstack.waiting import wait_until
from tests.conftest import NewStack
from tests.console.conftest import Console, NewConsole
from tests.console.job_factory import JobFactory
from tests.support.behaviours import accept
from tests.support.client import ApiClient
from tests.support.job_handle import JobHandle

REASON = "The engine was down. <b>Olga</b>"


def act(console: Console, button: str, reason: str = REASON) -> str:
    """Press a button, enter a reason, confirm, and return the dialog's result."""
    console.click("button", button)
    console.see("dialog.act .consequences li")
    if reason:
        console.fill("dialog.act textarea", reason)
    console.click("dialog.act button[type=submit]")
    console.see("dialog.act button", "Close")
    result = str(console.text("dialog.act [role=status]"))
    console.click("dialog.act button", "Close")
    return result


def reasons_seen_by_owner(handle: JobHandle) -> set[str | None]:
    """Return the reasons of the operator's events, as the job's owner sees them."""
    events = [event for event in handle.trail() if event["actor_type"] == "operator"]
    assert "olga" not in str(events)
    return {event.get("reason") for event in events}


@pytest.mark.parametrize(
    ("button", "result", "status", "phase"),
    [
        ("Settle as sent", "AUDIO_EXTRACTING", "AUDIO_EXTRACTING", "SENT"),
        ("Settle as not arrived", "RELEASED", "UPLOADED", "RELEASED"),
        ("Cancel", "CANCELLED", "CANCELLED", "UNKNOWN"),
    ],
)
def test_an_operator_settles_an_unknown_outcome_or_cancels_its_job(
    button: str, result: str, status: str, phase: str, olga: Console, factory: JobFactory
) -> None:
    handle = factory.unknown()
    olga.go(f"/jobs/{handle.id}")
    assert result in act(olga, button)
    olga.see(".facts .badge", status)
    assert (handle.status, handle.dispatch["phase"]) == (status, phase)
    assert REASON in olga.see(".timeline li", "operator olga").text
    assert REASON in reasons_seen_by_owner(handle)


def test_an_operator_fails_a_job(olga: Console, factory: JobFactory) -> None:
    handle = factory.job().lead_to("TRANSCRIBING")
    olga.go(f"/jobs/{handle.id}")
    assert "FAILED" in act(olga, "Fail")
    olga.see(".facts dd", "FAILED_BY_OPERATOR")
    assert handle.status == "FAILED"


def test_a_query_to_an_orchestrator_without_support_is_refused(
    olga: Console, factory: JobFactory
) -> None:
    handle = factory.unknown()
    olga.go(f"/jobs/{handle.id}").click("#act-ask")
    olga.click("dialog.act button[type=submit]")
    olga.see("dialog.act [role=status]", "CANNOT_BE_ASKED")
    olga.save_screenshot("refused_act")
    olga.click("dialog.act button", "Go back")
    assert handle.dispatch["phase"] == "UNKNOWN"


def test_the_entered_reason_stays_after_a_refusal(olga: Console, factory: JobFactory) -> None:
    handle = factory.job().lead_to("AUDIO_EXTRACTING")
    olga.go(f"/jobs/{handle.id}").click("#act-cancel")
    olga.fill("dialog.act textarea", "Too late")
    handle.client.cancel(handle.id)
    olga.click("dialog.act button[type=submit]")
    olga.see("dialog.act [role=status]", "FSM_TERMINAL_IMMUTABLE")
    assert olga.see("dialog.act textarea").get_attribute("value") == "Too late"
    olga.click("dialog.act button", "Go back")
    olga.wait(lambda: not olga.all("#act-cancel"), "a cancelled job offers no cancel")


def test_going_back_closes_the_dialog_about_the_job_that_was_shown(
    olga: Console, factory: JobFactory
) -> None:
    first, second = factory.job(), factory.job()
    olga.go(f"/jobs/{first.id}").see("h1", first.id)
    olga.go(f"/jobs/{second.id}").see("h1", second.id)
    olga.click("#act-cancel")
    olga.see("dialog.act")
    olga.driver.back()
    olga.see("h1", first.id)
    olga.wait(lambda: not olga.all("dialog.act"), "the dialog is closed")
    olga.click("#act-cancel")
    olga.see("dialog.act h2", "Cancel the job?")


def test_every_page_shows_that_dispatching_is_paused(olga: Console, factory: JobFactory) -> None:
    handle = factory.job()
    olga.go("/")
    assert "is paused since" in act(olga, "Pause dispatching")
    try:
        for path in ("/", "/jobs?view=failed", f"/jobs/{handle.id}", "/retries"):
            olga.go(path).see("#pause", f"by olga: {REASON}")
        olga.go("/jobs?view=in_flight")
        factory.orchestrator.behaviours[handle.id] = accept()
        assert handle.client.run(handle.id, headers={"Prefer": "wait=0"}).status_code == 202
        olga.go("/").click(".tile", "In flight")
        olga.see("li.row", handle.id)
        olga.save_screenshot("paused")
        assert factory.orchestrator.requests_for(handle.id) == []
        olga.click("#resume")
        assert olga.see("dialog.act textarea").accessible_name == "Reason (optional)"
        olga.click("dialog.act button", "Go back")
    finally:
        act(olga, "Resume", "")
    olga.wait(
        lambda: not olga.see("body").find_elements("css selector", "#pause:not([hidden])"),
        "the pause has ended",
    )
    wait_until(lambda: handle.status == "AUDIO_EXTRACTING", 15, "the waiting dispatch is sent")


def test_failed_jobs_are_retried_after_a_dry_run(olga: Console, factory: JobFactory) -> None:
    jobs = [factory.failed("rita", "NO_GPU") for _ in range(3)]
    running = factory.failed("rita", "NO_GPU")
    assert running.retry("by-the-owner").status_code == 202
    olga.go("/retries")
    olga.fill("input[name=failure_code]", " NO_GPU ")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "The dry run found 4 jobs")
    outcomes = [row.text for row in olga.all("main li.row")]
    assert sum("started" in outcome for outcome in outcomes) == 3
    assert sum("JOB_ALREADY_RUNNING" in outcome for outcome in outcomes) == 1
    assert [len(job.trail()) for job in jobs] == [len(jobs[0].trail())] * 3
    assert {job.dispatch["kind"] for job in jobs} == {"run"}, "a dry run starts no retry"
    olga.save_screenshot("dry_run")
    result = act(olga, "Retry 4")
    assert "3 started" in result
    assert "1 refused" in result
    olga.see("main h2", "Results")
    for handle in jobs:
        wait_until(lambda job=handle: job.dispatch["phase"] == "SENT", 15, "it is sent")
        assert len(factory.orchestrator.requests_for(handle.id)) == 2
    olga.click("button", "Dry run")
    olga.see("main li.row", "replayed")
    olga.fill("input[name=failure_code]", "ANOTHER")
    assert olga.all("#retry-all") == [], "a changed filter needs another dry run"


def test_a_late_dry_run_does_not_replace_a_later_one(olga: Console, factory: JobFactory) -> None:
    factory.failed("rita", "FIRST")
    later = factory.failed("rita", "SECOND")
    olga.go("/retries")
    olga.hold_next_answer()
    olga.fill("input[name=failure_code]", "FIRST")
    olga.click("button", "Dry run")
    olga.wait_for_held_answer()
    olga.fill("input[name=failure_code]", "SECOND")
    olga.click("button", "Dry run")
    olga.see("main li.row", later.id)
    olga.release_answer()
    assert olga.row_ids() == [later.id]
    olga.hold_next_answer()
    olga.click("button", "Dry run")
    olga.wait_for_held_answer()
    olga.fill("input[name=failure_code]", "THIRD")
    olga.release_answer()
    assert olga.all("#retry-all") == [], "a changed filter needs another dry run"


@pytest.mark.parametrize("time", ["15:05:07.945902", "15:05:00.945902", "15:00:00.945902"])
def test_a_jobs_retry_asks_for_its_exact_time(time: str, olga: Console) -> None:
    olga.driver.execute_script(
        "const send = window.fetch; window.fetch = (url, options) => {"
        " if (options.body) window.sent = options.body; return send(url, options); };"
    )
    failed_since = f"2026-11-01T{time}Z"
    olga.go(f"/retries?failed_since={failed_since}&failure_code=NONE")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "The dry run found no job.")
    assert json.loads(olga.driver.execute_script("return sent"))["failed_since"] == failed_since


def test_a_single_failed_job_is_retried_from_its_page(olga: Console, factory: JobFactory) -> None:
    handle, later = factory.failed("one"), factory.failed("one")
    olga.go(f"/jobs/{handle.id}").click("#act-retry")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "The dry run found 1 job; there may be more among the next.")
    olga.see("main li.row", handle.id)
    assert "1 started" in act(olga, "Retry 1")
    assert later.dispatch["kind"] == "run"


def test_an_invalid_profile_is_explained(olga: Console) -> None:
    olga.go("/retries")
    olga.fill("input[name=model_profile]", "fastest")
    olga.click("button", "Dry run")
    olga.see("main [role=status]", "model_profile: Must be one of: standard, fast, quality")


def test_an_act_without_an_answer_can_be_repeated(
    new_console: NewConsole, new_stack: NewStack
) -> None:
    with new_stack(workers=0) as stack:
        alice = ApiClient(stack.api_url, "alice")
        job_id = alice.uploaded_job()["id"]
        console = new_console(stack).load(f"/jobs/{job_id}").sign_in("olga", "operator")
        console.click("#act-cancel")
        console.fill("dialog.act textarea", REASON)
        stack.webs[0].terminate(STOP_SECONDS)
        console.click("dialog.act button[type=submit]")
        console.see("dialog.act [role=status]", "It is safe to try again")
        stack.restart(stack.webs[0])
        console.click("dialog.act button[type=submit]")
        console.see("dialog.act [role=status]", "CANCELLED")
        assert alice.job(job_id).json()["status"] == "CANCELLED"
