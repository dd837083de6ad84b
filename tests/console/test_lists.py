"""An operator's pages: the overview, the lists with their filters, a job with its timeline."""

import pytest
from selenium import webdriver

from devstack.ports import HOST, free_port
from tests.conftest import NewStack
from tests.console.conftest import PHONE, Console, NewConsole
from tests.console.job_factory import JobFactory


def listed(console: Console) -> list[str]:
    """Wait until the list is loaded; return the ids of its jobs."""
    console.wait(lambda: "job" in console.text("main > [role=status]").lower(), "loaded list")
    return console.row_ids()


def test_the_overview_has_counts_that_follow_changes(olga: Console, factory: JobFactory) -> None:
    factory.unknown()
    factory.silent()
    for label in ("Unknown", "Silent", "In flight", "Failed in 24 hours"):
        olga.see(".tile", label)
    olga.see("th", "UNKNOWN")
    tile = ".tile[href='#/jobs?view=failed']"
    before = int(olga.see(f"{tile} .count").text)
    factory.failed()
    olga.wait(lambda: int(olga.text(f"{tile} .count")) > before, "the new failure is counted")
    olga.save_screenshot("overview")


def test_the_overview_counts_dispatches_of_another_engine(
    factory: JobFactory, new_stack: NewStack, new_console: NewConsole
) -> None:
    factory.unknown()
    elsewhere = {
        **factory.stack.settings,
        "TAKEONE_ORCHESTRATOR_URL": f"http://{HOST}:{free_port()}",
    }
    with new_stack(redis=factory.stack.redis, workers=0, **elsewhere) as moved:
        new_console(moved).load("/").sign_in("olga", "operator").see(
            "th", "of these, at another engine"
        )


def test_a_refresh_without_a_change_loses_no_press_and_no_selection(
    olga: Console, factory: JobFactory
) -> None:
    handle = factory.failed("selma")

    def wait_for_calls(path: str) -> None:
        olga.driver.execute_script("performance.clearResourceTimings()")
        calls = lambda: sum(path in url for url in olga.resource_urls())  # noqa: E731
        olga.wait(lambda: calls() >= 2, "two answers, of which the page has read the first")

    webdriver.ActionChains(olga.driver).click_and_hold(olga.see("#toggle-pause")).perform()
    wait_for_calls("/operations/overview")
    webdriver.ActionChains(olga.driver).release().perform()
    olga.see("dialog.act h2", "Pause dispatching?")
    olga.go("/jobs?view=failed&owner=selma").see("li.row", handle.id)
    olga.driver.execute_script(
        "getSelection().selectAllChildren(document.querySelector('li.row bdi'))"
    )
    wait_for_calls("/operations/jobs")
    assert olga.driver.execute_script("return String(getSelection())") == "selma"


def test_each_list_shows_its_jobs_with_owner_and_reason(olga: Console, factory: JobFactory) -> None:
    jobs = {
        "Unknown": (factory.unknown("una"), "una", "outcome_unknown"),
        "Silent": (factory.silent("sina"), "sina", "AUDIO_EXTRACTING"),
        "Failed": (factory.failed("fina"), "fina", "OUT_OF_MEMORY"),
    }
    olga.click("#nav a", "Jobs")
    for view, (handle, owner, reason) in jobs.items():
        olga.click(".tabs a", view)
        olga.see("h1", f"{view} jobs")
        row = olga.see("li.row", handle.id)
        assert reason in row.text
        assert owner in row.text
    olga.save_screenshot("failed_jobs")


def test_filters_are_kept_in_the_address(olga: Console, factory: JobFactory) -> None:
    wanted, other = factory.failed("filter-me", "NO_DISK"), factory.failed("not-me", "NO_DISK")
    olga.go("/jobs?view=failed")
    olga.fill("input[name=owner]", "filter-me")
    olga.fill("input[name=reason]", "NO_DISK")
    olga.click("form button[type=submit]")
    olga.wait(lambda: listed(olga) == [wanted.id], "only the matching job is listed")
    address = olga.driver.current_url
    assert "owner=filter-me" in address
    assert "reason=NO_DISK" in address
    olga.click("form button", "Clear")
    olga.wait(lambda: other.id in listed(olga), "all are listed")
    olga.driver.back()
    olga.wait(lambda: listed(olga) == [wanted.id], "the filters are back")
    olga.load(address.partition("#")[2]).sign_in("olga", "operator")
    assert listed(olga) == [wanted.id]
    assert olga.see("input[name=owner]").get_attribute("value") == "filter-me"
    olga.choose("#field-older_than", "3600")
    olga.click("form button[type=submit]")
    olga.wait(lambda: listed(olga) == [], "no job is that old")


@pytest.mark.parametrize(
    ("path", "selector", "text"),
    [
        ("/jobs?view=failed&project_id=x", "main > [role=status]", "project_id: Must be a UUID"),
        (
            "/jobs/8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2",
            "main > [role=status]",
            "There is no such job",
        ),
        ("/jobs/..%2F..%2Fhealthz", "main > [role=status]", "There is no such job"),
        ("/jobs/x%20y", "main > [role=status]", "There is no such job"),
        ("/__proto__", "h1", "No such page"),
    ],
)
def test_an_invalid_address_is_explained(
    path: str, selector: str, text: str, olga: Console
) -> None:
    olga.go(path).see(selector, text)


def test_a_job_shows_who_did_what_when_and_by_which_dispatch(
    olga: Console, factory: JobFactory
) -> None:
    handle = factory.failed("tina", name="Interview 7", metadata={"language": "fi"})
    olga.go(f"/jobs/{handle.id}")
    olga.see("dd", "tina")
    page = olga.text("main")
    for fact in (
        "Interview 7", "OUT_OF_MEMORY", "no room", "ASR", "language", handle.run_id, "s3://studio",
    ):  # fmt: skip
        assert fact in page
    events = [event.text for event in olga.all(".timeline li")]
    assert len(events) == len(handle.trail())
    accepted = next(event for event in events if "Dispatch accepted" in event)
    for fact in ("later", "by system", handle.run_id, "epoch 1"):
        assert fact in accepted
    assert any("UPLOADED → AUDIO_EXTRACTING" in event for event in events)
    olga.save_screenshot("job")


def test_each_time_names_its_zone(olga: Console, factory: JobFactory) -> None:
    handle = factory.failed()
    zone = "Emulation.setTimezoneOverride"
    olga.driver.execute_cdp_cmd(zone, {"timezoneId": "Asia/Kolkata"})
    try:
        olga.go(f"/jobs/{handle.id}").see(".timeline time")
        assert {shown.text.partition(" GMT")[2] for shown in olga.all("time")} == {"+5:30"}
    finally:
        olga.driver.execute_cdp_cmd(zone, {"timezoneId": ""})


def test_only_web_addresses_are_links_and_none_is_fetched(
    olga: Console, factory: JobFactory
) -> None:
    handle = factory.job().lead_to("AUDIO_EXTRACTING")
    artifacts = {
        "audio_uri": "https://cdn.invalid/a.wav",
        "transcript_uri": "javascript:alert(1)",
        "preview": "data:text/html,<script>alert(1)</script>",
        "exports": ["http://cdn.invalid/1.mp4", "file:///etc/passwd"],
    }
    handle.reported("AUDIO_READY", artifact_updates=artifacts)
    olga.go(f"/jobs/{handle.id}")
    olga.see("dd", "file:///etc/passwd")
    links = olga.all("main section a")
    hrefs = {link.get_attribute("href") for link in links}
    assert hrefs == {"https://cdn.invalid/a.wav", "http://cdn.invalid/1.mp4"}
    assert {link.get_attribute("rel") for link in links} == {"noreferrer noopener"}
    assert not [url for url in olga.resource_urls() if "cdn.invalid" in url]


def test_a_job_page_follows_the_jobs_changes(olga: Console, factory: JobFactory) -> None:
    handle = factory.job().lead_to("AUDIO_EXTRACTING")
    olga.go(f"/jobs/{handle.id}")
    olga.see(".facts .badge", "AUDIO_EXTRACTING")
    olga.driver.execute_script("arguments[0].focus()", olga.see("#act-cancel"))
    handle.reported("AUDIO_READY")
    olga.see(".facts .badge", "AUDIO_READY")
    assert "AUDIO_READY" in olga.driver.execute_script(
        "return document.getElementById('announcer').textContent"
    )
    assert olga.focused().get_attribute("id") == "act-cancel", "the focus stays where it was"
    handle.client.cancel(handle.id)
    handle.client.delete_job(handle.id)
    olga.see("main > [role=status]", "no such job")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_on_a_phone(scheme: str, olga: Console, factory: JobFactory) -> None:
    handle = factory.failed("phone", name="A name that is long enough to be broken into lines " * 3)
    olga.resize(PHONE)
    olga.set_color_scheme(scheme)
    too_wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    for path, selector in (
        ("/", ".tile"), ("/jobs?view=failed", "li.row"), (f"/jobs/{handle.id}", ".timeline"),
        ("/retries", "form"),
    ):  # fmt: skip
        olga.go(path).see(selector)
        assert not olga.driver.execute_script(too_wide), path
        olga.save_screenshot(f"phone_{scheme}_{selector.strip('.').replace('.', '_')}")
