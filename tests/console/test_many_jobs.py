"""Ten thousand unknown outcomes: the list has pages, and a filter finds a single job."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from devstack.stack import Stack
from domain import claim_rules, lifecycle
from domain.claim import ClaimEvent
from domain.job import Project
from domain.record import Change, Decision, Record
from domain.run import decide_run
from store.jobs import JobStore
from store.projects import ProjectStore
from tasks.outbox import TransactionalOutbox
from tests.conftest import NewStack
from tests.console.conftest import NewConsole
from tests.support.client import ApiClient
from tests.support.stores import client_of
from tests.unit.records import POLICY

JOBS = 10_000
RARE = 2_500
BEGAN = datetime.now(UTC) - timedelta(hours=1)


def unknown_since(record: Record, now: datetime) -> Decision[None]:
    """Decide, in one step, a run that was sent at `now` and has an unknown outcome."""
    uploaded = lifecycle.confirm_upload(Change(record, now, POLICY), "s3://video").record
    claimed = decide_run(Change(uploaded, now, POLICY)).record
    sending = claim_rules.begin(Change(claimed, now, POLICY), claimed.token).record
    event = ClaimEvent.LOST
    lost = claim_rules.settle(Change(sending, now, POLICY), sending.token, event, "outcome_unknown")
    return replace(lost, task=None)


@pytest.fixture(scope="module")
def many_unknown(new_stack: NewStack) -> Iterator[Stack]:
    """A service without workers, with jobs that were written directly into its store."""
    with new_stack(workers=0) as running:
        with client_of(running.redis.url, timeout_seconds=5) as client:
            jobs, projects = JobStore(client, TransactionalOutbox(["unused"])), ProjectStore(client)
            created: dict[str, Project] = {}
            for number in range(JOBS):
                owner = "rare" if number == RARE else "frequent"
                now = BEGAN + timedelta(milliseconds=number)
                if owner not in created:
                    project = Project(id=str(uuid4()), name="Many", owner=owner, created_at=now)
                    projects.create(project)
                    created[owner] = project
                job_id = str(uuid4())
                jobs.create(lifecycle.create_job(job_id, created[owner].id, owner, now, None))
                jobs.update(job_id, lambda record, now=now: unknown_since(record, now))
        alice = ApiClient(running.api_url, "alice")
        alice.run(alice.uploaded_job()["id"], headers={"Prefer": "wait=0"})
        yield running


@pytest.mark.timeout(300)
def test_many_unknown_jobs_are_counted_paged_and_filtered(
    many_unknown: Stack, new_console: NewConsole
) -> None:
    console = new_console(many_unknown).load("/").sign_in("olga", "operator")
    ids = console.row_ids
    console.see(".tile[href='#/jobs?view=unknown'] .count", str(JOBS))
    console.see("h2", "Claims by phase (CLAIMED and SENDING of the 1,000 oldest)")
    console.click(".tile", "Unknown")
    console.see("main > [role=status]", "50 jobs, and more on the next page.")
    seen = ids()
    for _ in range(3):
        last = seen[-1]
        console.click("#next-page")
        console.wait(lambda last=last: ids() and last not in ids(), "the next page")
        seen += ids()
    assert len(seen) == len(set(seen)) == 200
    console.save_screenshot("many_jobs")
    console.driver.back()
    console.wait(lambda: ids() == seen[100:150], "the page before")
    console.click("#first-page")
    console.wait(lambda: ids() == seen[:50], "the first page")

    console.fill("input[name=owner]", "rare")
    console.click("form button[type=submit]")
    console.see("main > [role=status]", "None on this page; there may be more on the next.")
    while not ids():
        before = console.driver.current_url
        console.click("#next-page")
        console.wait(lambda url=before: console.driver.current_url != url, "another page")
        console.wait(lambda: "Reading" not in console.text("main > [role=status]"), "loaded page")
    assert "rare" in console.text("li.row")
    assert console.browser_errors() == []
