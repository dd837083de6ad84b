"""The console while the service is unreachable, and while its page is hidden."""

from devstack.stack import STOP_SECONDS
from store import keys
from tests.conftest import NewStack
from tests.console.conftest import Console, NewConsole
from tests.console.job_factory import JobFactory
from tests.support.client import ApiClient
from tests.support.stores import client_of


def count_of(console: Console, status: str) -> str:
    rows = [row.text for row in console.all("tr")]
    return next((row.split()[-1] for row in rows if row.startswith(status)), "")


def test_the_page_shows_an_outage_and_resumes_after_it(
    new_stack: NewStack, new_console: NewConsole
) -> None:
    with new_stack(workers=0) as stack:
        alice = ApiClient(stack.api_url, "alice")
        job_id = alice.uploaded_job()["id"]
        console = new_console(stack).load("/").sign_in("olga", "operator")
        console.wait(lambda: count_of(console, "UPLOADED") == "1", "one job")
        stack.webs[0].terminate(STOP_SECONDS)
        console.see("#connection", "No answer from the service since")
        assert count_of(console, "UPLOADED") == "1", "the old data stays on the page"
        console.save_screenshot("no_answer")
        stack.restart(stack.webs[0])
        alice.uploaded_job()
        console.wait(lambda: count_of(console, "UPLOADED") == "2", "new data")
        assert not console.see("main").find_elements("css selector", "#connection:not([hidden])")
        console.go(f"/jobs/{job_id}").see(".facts .badge", "UPLOADED")


def test_the_end_of_each_outage_is_announced(olga: Console) -> None:
    olga.see(".tile", "Unknown")
    olga.driver.execute_script(
        "window.announced = []; const announcer = document.getElementById('announcer');"
        "new MutationObserver(() => announced.push(announcer.textContent))"
        ".observe(announcer, {childList: true, characterData: true, subtree: true})"
    )
    announced = lambda: olga.driver.execute_script("return announced")  # noqa: E731
    for _ in range(2):
        olga.driver.set_network_conditions(offline=True, latency=0, throughput=-1)
        olga.see("#connection", "No answer from the service since")
        olga.driver.execute_script("announced.length = 0")
        olga.driver.delete_network_conditions()
        olga.wait(lambda: "The service answers again." in announced(), "it is announced")


def test_a_page_without_input_for_an_hour_says_that_it_is_old(olga: Console) -> None:
    olga.see(".tile", "Unknown")
    olga.driver.execute_script("const now = Date.now; Date.now = () => now() + 61 * 60 * 1000")
    olga.see("#idle", "not been refreshed")
    olga.driver.execute_script("performance.clearResourceTimings()")
    olga.press("x")
    olga.wait(
        lambda: not olga.see("body").find_elements("css selector", "#idle:not([hidden])"),
        "it is refreshed",
    )
    olga.wait(lambda: any("overview" in url for url in olga.resource_urls()), "a call")


def test_a_store_that_is_down_is_explained_everywhere(
    new_stack: NewStack, new_console: NewConsole
) -> None:
    with new_stack(workers=0) as stack:
        job_id = ApiClient(stack.api_url, "alice").uploaded_job()["id"]
        console = new_console(stack).load(f"/jobs/{job_id}").sign_in("olga", "operator")
        console.click("#act-cancel")
        console.fill("dialog.act textarea", "Too late")
        stack.redis.kill()
        console.click("dialog.act button[type=submit]")
        console.see("dialog.act [role=status]", "It may have been done. It is safe to try again.")
        console.click("dialog.act button", "Go back")
        console.see("#connection", "No answer from the service since")
        for path in (f"/jobs/{job_id}", "/jobs"):
            console.go(path).see("main > [role=status]", "cannot serve this right now")
        console.load("/").fill("#field-name", "olga")
        console.click("#sign-in button[type=submit]")
        console.see("#sign-in [role=alert]", "cannot serve this right now")
        assert console.browser_errors() == []


def test_a_call_that_is_refused_or_finds_an_unreadable_job_is_no_outage(
    olga: Console, factory: JobFactory
) -> None:
    job_id = factory.job().id
    with client_of(factory.stack.redis.url, timeout_seconds=5) as client:
        client.set(keys.job(job_id), b"of a later release")
    overviews = lambda: sum("overview" in url for url in olga.resource_urls())  # noqa: E731
    olga.driver.execute_script(
        "window.shown = 0; const banner = document.getElementById('connection');"
        "new MutationObserver(() => { shown += !banner.hidden; }).observe(banner, {attributes: true});"
        "performance.clearResourceTimings()"
    )
    olga.go(f"/jobs/{job_id}").see("main > [role=status]", "cannot serve this right now")
    olga.wait(lambda: overviews() >= 2, "two answers of the service")
    # The server's own refusal, without a body; a gateway's has a page of its own.
    olga.go(f"/jobs?owner={'x' * 200_000}").see("main > [role=status]", "The service answered 431.")
    assert olga.driver.execute_script("return shown") == 0
    with client_of(factory.stack.redis.url, timeout_seconds=5) as client:
        client.delete(keys.job(job_id))


def test_a_hidden_page_makes_no_calls(olga: Console) -> None:
    olga.see("h1", "Overview")
    driver, first = olga.driver, olga.driver.current_window_handle
    driver.execute_script(
        "window.unseen = 0; new PerformanceObserver((list) => "
        "{ if (document.hidden) unseen += list.getEntries().length }).observe({type: 'resource'})"
    )
    driver.switch_to.new_window("tab")
    try:
        olga.load("/").sign_in("oleg", "operator")
        calls = lambda: sum("overview" in url for url in olga.resource_urls())  # noqa: E731
        olga.wait(lambda: calls() >= 4, "the visible page makes calls")
    finally:
        driver.close()
        driver.switch_to.window(first)
    assert driver.execute_script("return unseen") <= 1, "only the call in progress"
