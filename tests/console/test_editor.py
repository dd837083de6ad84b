"""The console's page for trying the service after `make up`, as an editor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.local_stack import LocalStack
from tests.console.conftest import Console, NewConsole
from tests.console.job_factory import JobFactory


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The stack of `make up`, with a fast orchestrator."""
    with LocalStack(Path(tmp_path_factory.mktemp("local")), step_seconds=0.4) as running:
        yield running


@pytest.fixture
def console(local: LocalStack, new_console: NewConsole) -> Iterator[Console]:
    """The console of `local` with an editor signed in; no test may cause a browser error."""
    opened = new_console(local.service).load().sign_in("newcomer", "editor")
    yield opened
    assert opened.browser_errors() == []


def create_job(console: Console, name: str) -> None:
    console.see("h1", "Try Take One")
    console.click("form[aria-label='New project'] button")
    console.see("#field-project_id option", "Interviews")
    console.fill("#field-job_name", name)
    console.click("form[aria-label='New job'] button")
    console.see(".badge", "CREATED")


def test_a_job_is_run_twice_dispatched_once_and_followed_to_its_draft(console: Console) -> None:
    create_job(console, "The first take")
    console.click("#trial-confirm")
    console.click("#trial-run")
    console.see(".answers li", "Run: 202 This call made the dispatch: run-")
    console.click("#trial-run")
    console.see(".answers li", "Run: 200 The dispatch exists already: run-")
    dispatch_ids = {answer.text.rpartition(" ")[2] for answer in console.all(".answers li")[1:]}
    assert len(dispatch_ids) == 1
    for status in ("AUDIO_READY", "TRANSCRIPT_READY", "DRAFT_READY"):
        console.see(".timeline .badge", status)
    assert len(console.all("[data-event='dispatch.sent']")) == 1
    console.save_screenshot("try_it")


def test_a_job_is_not_made_without_a_project(local: LocalStack, new_console: NewConsole) -> None:
    console = new_console(local.service).load().sign_in("no-project", "editor")
    console.click("form[aria-label='New job'] button")
    assert console.focused().get_attribute("id") == "field-project_id", "the browser asks for it"
    assert console.browser_errors() == []


def test_a_failed_job_is_retried(console: Console) -> None:
    create_job(console, "The second take")
    console.choose("#field-fault", "transcription")
    console.click("#trial-confirm")
    console.click("#trial-run")
    console.see(".facts .badge", "FAILED")
    console.see(".facts dd", "TRANSCRIBING_FAILED")
    console.click("#trial-retry")
    console.see(".answers li", "Retry: 202 This call made the dispatch: retry-")
    console.see(".facts .badge", "DRAFT_READY")


def test_the_list_of_own_jobs_follows_changes_by_long_polls(
    factory: JobFactory, new_console: NewConsole
) -> None:
    console = new_console(factory.stack).load().sign_in("newcomer", "editor")
    console.see("h1", "Try Take One")
    handle = factory.job("newcomer")
    console.see("li.row", handle.id)
    # Each state stays until it is seen: of two quick changes the page may show only the second.
    for change, status in (
        (lambda: handle.lead_to("TRANSCRIBING"), "TRANSCRIBING"),
        (lambda: handle.reported("TRANSCRIPT_READY", "GENERATING", "DRAFT_READY"), "DRAFT_READY"),
        (lambda: handle.client.cancel(handle.id), "CANCELLED"),
    ):
        change()
        console.wait(lambda wanted=status: wanted in console.text("li.row"), status)
    calls = [url for url in console.resource_urls() if "/api/v1/jobs?" in url]
    polls = [url for url in calls if "wait=20" in url]
    assert 0 < len(calls) - len(polls) <= len(polls) + 1, "each call but the first follows a poll"
    assert console.browser_errors() == []
