"""A job's page where the orchestrator can be queried."""

from devstack.stack import Stack
from tests.acceptance.test_asking import Restate, asking, engine, handle, stub
from tests.console.conftest import NewConsole
from tests.support.job_handle import JobHandle

__all__ = ["asking", "engine", "handle", "stub"]


def test_a_query_to_the_orchestrator_settles_an_unknown_outcome(
    asking: Stack, engine: Restate, handle: JobHandle, new_console: NewConsole
) -> None:
    engine.is_deaf = True
    engine.on_start[handle.run_id] = "arrived, and the answer lost"
    assert handle.client.run(handle.id).status_code == 502
    console = new_console(asking).load(f"/jobs/{handle.id}").sign_in("olga", "operator")
    console.see(".facts .badge", "UNKNOWN")
    engine.is_deaf = False
    console.click("#act-ask")
    console.click("dialog.act button[type=submit]")
    console.see(
        "dialog.act [role=status]", "The orchestrator says: running. The job is AUDIO_EXTRACTING"
    )
    console.click("dialog.act button", "Close")
    console.see(".timeline li", "operator olga")
    console.see(".facts dd", "running")
    assert console.browser_errors() == []


def test_an_accepted_retry_that_does_not_report_can_be_asked_about(
    asking: Stack, engine: Restate, handle: JobHandle, new_console: NewConsole
) -> None:
    handle.lead_to("FAILED")
    engine.runs[handle.run_id] = "failed"
    assert handle.retry("one").status_code == 202
    console = new_console(asking).load(f"/jobs/{handle.id}").sign_in("olga", "operator")
    console.click("#act-ask")
    console.click("dialog.act button[type=submit]")
    console.see("dialog.act [role=status]", "The orchestrator says: running. The job is FAILED")
    assert console.browser_errors() == []
