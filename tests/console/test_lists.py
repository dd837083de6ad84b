"""What an operator reads: the overview, the lists with their filters, a job with its timeline."""

from tests.console.conftest import PHONE, Console
from tests.console.night import Night
from tests.support.job_handle import JobHandle


def listed(console: Console) -> list[str]:
    """The ids of the jobs on the page, once it has been read."""
    console.wait(lambda: "job" in console.text("main > [role=status]").lower(), "the list is read")
    return [each.get_attribute("href").rpartition("/")[2] for each in console.all("li.row a")]


def test_the_overview_counts_and_follows_what_changes(olga: Console, night: Night) -> None:
    night.unknown()
    night.silent()
    for label in ("Unknown", "Silent", "In flight", "Failed in 24 hours"):
        olga.see(".tile", label)
    olga.see("th", "UNKNOWN")
    tile = ".tile[href='#/jobs?view=failed']"
    before = int(olga.see(f"{tile} .count").text)
    night.failed()
    olga.wait(lambda: int(olga.text(f"{tile} .count")) > before, "the new failure is counted")
    olga.photograph("overview")


def test_each_list_has_its_jobs_and_says_why(olga: Console, night: Night) -> None:
    jobs: dict[str, tuple[JobHandle, str]] = {
        "unknown": (night.unknown("una"), "outcome_unknown"),
        "silent": (night.silent("sina"), "AUDIO_EXTRACTING"),
        "failed": (night.failed("fina"), "OUT_OF_MEMORY"),
    }
    olga.click("#nav a", "Jobs")
    for view, (handle, why) in jobs.items():
        olga.click(".tabs a", view.capitalize())
        olga.see("h1", f"{view.capitalize()} jobs")
        row = olga.see("li.row", handle.id)
        assert why in row.text
        assert {"unknown": "una", "silent": "sina", "failed": "fina"}[view] in row.text
    olga.photograph("failed_jobs")


def test_filters_live_in_the_address(olga: Console, night: Night) -> None:
    wanted, other = night.failed("filter-me", "NO_DISK"), night.failed("not-me", "NO_DISK")
    olga.go("/jobs?view=failed")
    olga.fill("input[name=owner]", "filter-me")
    olga.fill("input[name=reason]", "NO_DISK")
    olga.click("form button[type=submit]")
    olga.wait(lambda: listed(olga) == [wanted.id], "the other one is not listed")
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
    olga.wait(lambda: listed(olga) == [], "none is as old")


def test_a_filter_that_cannot_be_is_explained(olga: Console) -> None:
    olga.go("/jobs?view=failed&project_id=nonsense")
    olga.see("main > [role=status]", "project_id: Must be a UUID")


def test_a_job_shows_who_did_what_when_and_by_which_dispatch(olga: Console, night: Night) -> None:
    handle = night.failed("tina", name="Interview 7", metadata={"language": "fi"})
    olga.go(f"/jobs/{handle.id}")
    olga.see("dd", "tina")
    shown = olga.text("main")
    for fact in (
        "Interview 7", "OUT_OF_MEMORY", "no room", "ASR", "language", handle.run_id, "s3://studio",
    ):  # fmt: skip
        assert fact in shown
    events = [each.text for each in olga.all(".timeline li")]
    assert len(events) == len(handle.trail())
    accepted = next(each for each in events if "Dispatch accepted" in each)
    for fact in ("later", "by system", handle.run_id, "epoch 1"):
        assert fact in accepted
    assert [each for each in events if "UPLOADED → AUDIO_EXTRACTING" in each]
    olga.photograph("job")


def test_only_web_addresses_are_links_and_none_is_fetched(olga: Console, night: Night) -> None:
    handle = night.job().lead_to("AUDIO_EXTRACTING")
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
    assert {each.get_attribute("href") for each in links} == {
        "https://cdn.invalid/a.wav",
        "http://cdn.invalid/1.mp4",
    }
    assert {each.get_attribute("rel") for each in links} == {"noreferrer noopener"}
    names = "return performance.getEntriesByType('resource').map((each) => each.name)"
    assert not [each for each in olga.driver.execute_script(names) if "cdn.invalid" in each]


def test_a_job_that_changes_while_it_is_looked_at_is_shown_as_it_is(
    olga: Console, night: Night
) -> None:
    handle = night.job().lead_to("AUDIO_EXTRACTING")
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


def test_a_job_that_is_not_there(olga: Console) -> None:
    for job_id in ("8d6f2c1e-0b7a-4f53-9a55-61f1f4a0c7d2", "..%2F..%2Fhealthz", "x%20y"):
        olga.go(f"/jobs/{job_id}")
        olga.see("main > [role=status]", "There is no such job")


def test_an_address_that_leads_nowhere(olga: Console) -> None:
    olga.go("/__proto__")
    olga.see("h1", "No such page")


def test_everything_fits_on_a_phone_in_light_and_dark(olga: Console, night: Night) -> None:
    handle = night.failed("phone", name="A name that is long enough to be broken into lines " * 3)
    olga.resize(PHONE)
    too_wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    for scheme in ("light", "dark"):
        olga.prefer(scheme)
        for place, awaited in (
            ("/", ".tile"), ("/jobs?view=failed", "li.row"), (f"/jobs/{handle.id}", ".timeline"),
            ("/retries", "form"),
        ):  # fmt: skip
            olga.go(place).see(awaited)
            assert not olga.driver.execute_script(too_wide), place
            olga.photograph(f"phone_{scheme}_{awaited.strip('.').replace('.', '_')}")
