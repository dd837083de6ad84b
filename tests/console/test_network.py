"""The service goes away and comes back: what was read stays, is said to be old, and is read again."""

from collections.abc import Iterator

import pytest

from devstack.stack import STOP_SECONDS, Stack
from tests.conftest import NewStack
from tests.console.conftest import Console, NewConsole
from tests.support.client import ApiClient


@pytest.fixture
def fragile(new_stack: NewStack) -> Iterator[Stack]:
    """A service to stop and start."""
    with new_stack(workers=0) as running:
        yield running


def count_of(console: Console, status: str) -> str:
    rows = [each.text for each in console.all("tr")]
    return next((row.split()[-1] for row in rows if row.startswith(status)), "")


def test_the_page_says_so_and_goes_on_by_itself(fragile: Stack, new_console: NewConsole) -> None:
    alice = ApiClient(fragile.api_url, "alice")
    job_id = alice.uploaded_job()["id"]
    console = new_console(fragile).load("/").sign_in("olga", "operator")
    console.wait(lambda: count_of(console, "UPLOADED") == "1", "one job")
    fragile.webs[0].terminate(STOP_SECONDS)
    console.see("#connection", "No answer from the service since")
    assert count_of(console, "UPLOADED") == "1", "what was read stays"
    console.photograph("no_answer")
    fragile.restart(fragile.webs[0])
    alice.uploaded_job()
    console.wait(lambda: count_of(console, "UPLOADED") == "2", "it is read again")
    assert not console.see("main").find_elements("css selector", "#connection:not([hidden])")
    console.go(f"/jobs/{job_id}").see(".facts .badge", "UPLOADED")


def test_a_page_that_is_not_seen_asks_for_nothing(olga: Console) -> None:
    olga.see("h1", "Overview")
    driver, first = olga.driver, olga.driver.current_window_handle
    driver.execute_script(
        "window.unseen = 0; new PerformanceObserver((list) => "
        "{ if (document.hidden) unseen += list.getEntries().length }).observe({type: 'resource'})"
    )
    driver.switch_to.new_window("tab")
    try:
        olga.load("/").sign_in("oleg", "operator")
        entries = "performance.getEntriesByType('resource')"
        calls = f"return {entries}.filter((e) => e.name.includes('overview')).length"
        olga.wait(lambda: driver.execute_script(calls) >= 4, "a page that is seen asks again")
    finally:
        driver.close()
        driver.switch_to.window(first)
    assert driver.execute_script("return unseen") <= 1, "but for what was on its way"
