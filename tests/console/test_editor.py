"""What a newcomer does after `make up`: a project, a job, an upload, two runs and one dispatch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.local_stack import LocalStack
from tests.console.conftest import Console, NewConsole
from tests.support.client import ApiClient


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The stack of `make up`, with a quick orchestrator."""
    with LocalStack(Path(tmp_path_factory.mktemp("local")), step_seconds=0.4) as running:
        yield running


@pytest.fixture
def console(local: LocalStack, new_console: NewConsole) -> Iterator[Console]:
    """Its console, with an editor signed in."""
    shown = new_console(local.service).load().sign_in("newcomer", "editor")
    yield shown
    assert shown.complaints() == []


def make_job(console: Console, name: str) -> None:
    console.see("h1", "Try Take One")
    console.click("form[aria-label='New project'] button")
    console.see("#field-project_id option", "Interviews")
    console.fill("#field-job_name", name)
    console.click("form[aria-label='New job'] button")
    console.see(".badge", "CREATED")


def test_a_job_is_run_twice_dispatched_once_and_followed_to_its_draft(console: Console) -> None:
    make_job(console, "The first take")
    console.click("#trial-confirm")
    console.click("#trial-run")
    console.see(".answers li", "Run: 202 This call made the dispatch: run-")
    console.click("#trial-run")
    console.see(".answers li", "Run: 200 The dispatch exists already: run-")
    named = {each.text.rpartition(" ")[2] for each in console.all(".answers li")[1:]}
    assert len(named) == 1, "one dispatch"
    for status in ("AUDIO_READY", "TRANSCRIPT_READY", "DRAFT_READY"):
        console.see(".timeline .badge", status)
    assert len(console.all("[data-event='dispatch.sent']")) == 1
    console.photograph("try_it")


def test_a_job_fails_and_is_retried(console: Console) -> None:
    make_job(console, "The second take")
    console.choose("#field-fault", "transcription")
    console.click("#trial-confirm")
    console.click("#trial-run")
    console.see(".facts .badge", "FAILED")
    console.see(".facts dd", "TRANSCRIBING_FAILED")
    console.click("#trial-retry")
    console.see(".answers li", "Retry: 202 This call made the dispatch: retry-")
    console.see(".facts .badge", "DRAFT_READY")


def test_the_list_of_own_jobs_follows_what_changes(console: Console, local: LocalStack) -> None:
    newcomer = ApiClient(local.service.api_url, "newcomer")
    console.see("h1", "Try Take One")
    job_id = newcomer.uploaded_job()["id"]
    console.see("li.row", job_id)
    newcomer.run(job_id)
    for status in ("TRANSCRIBING", "DRAFT_READY"):
        console.wait(lambda wanted=status: wanted in console.text("li.row"), status)
    newcomer.cancel(job_id)
    console.see("li.row", "CANCELLED")
    names = "return performance.getEntriesByType('resource').map((each) => each.name)"
    asked = [each for each in console.driver.execute_script(names) if "/api/v1/jobs?" in each]
    waits = [each for each in asked if "wait=" in each]
    assert 0 < len(asked) - len(waits) <= len(waits) + 1, "but for the first, each waited for news"
