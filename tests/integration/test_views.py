"""Operators' views: each job is on one page even if others leave meanwhile; the overview; operators' acts."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from itertools import chain
from uuid import uuid4

import pytest

from domain.audit import OperatorAct
from domain.claim import ClaimEvent, Phase
from domain.claim_rules import settle_by_operator
from domain.errors import JobAlreadyRunning, NothingToSettle
from domain.job_fsm import JobStatus
from domain.lifecycle import cancel, edit
from domain.record import Change
from domain.retry import decide_retry
from domain.status_callback import StatusCallback, apply_callback
from services.operations import Operations
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from store import keys, overview
from store.indexes import View
from store.lists import JobFilter, PageQuery, every_page
from store.notifier import Notifier
from store.write_limit import WriteLimit
from tests.support.stores import NOW, POLICY, Database, seconds

NO_JOB = JobFilter(owner="none")
EVERY_VIEW = [View.UNKNOWN, View.IN_FLIGHT, View.FAILED]


def operations(database: Database, now: Callable[[], datetime]) -> Operations:
    slots, writes = WaitSlots(2), WriteLimit("", database.client)
    runs = RunAndWait(database.jobs, Notifier(database.client), POLICY, slots, writes, now)
    return Operations(database.jobs, database.projects, runs, 1.0, POLICY, now)


def pages(database: Database, view: View, query: PageQuery) -> Iterator[list[str]]:
    """The ids on each page, which is read on demand."""
    read = partial(database.projects.jobs_in_view, view)
    return ([record.job.id for record in page.items] for page in every_page(read, query))


def make_job_in(database: Database, view: View, age: float = 0) -> str:
    """Make a job that is in the view since `age` seconds before NOW; return its id."""
    if view is View.FAILED:
        return failed(database, age)
    return database.unknown(NOW - seconds(age)).job_id


def failed(database: Database, age: float = 0) -> str:
    """Make a job that failed `age` seconds before NOW; return its id."""
    job_id = database.accepted(NOW - seconds(age)).job_id
    report(database, job_id, JobStatus.FAILED, age)
    return job_id


def report(database: Database, job_id: str, status: JobStatus, age: float = 0) -> None:
    then = NOW - seconds(age)
    callback = StatusCallback(str(uuid4()), "digest", status, then, "c")
    database.jobs.update(
        job_id, lambda record: apply_callback(Change(record, then, POLICY), callback), event_id="x"
    )


def remove_from(database: Database, view: View, job_id: str) -> None:
    """Make the job leave the view."""
    if view is View.FAILED:
        database.delete(job_id)
    else:
        database.jobs.update(job_id, lambda record: cancel(Change(record, NOW, POLICY)))
        claim = database.record(job_id).token
        assert database.settle(claim, ClaimEvent.ACCEPTED)


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize("age", [0, 1], ids=["at one moment", "one after the other"])
@pytest.mark.parametrize("limit", [1, 3, 7, 200])
def test_every_job_is_on_one_page_oldest_first(
    database: Database, view: View, age: float, limit: int
) -> None:
    made = [make_job_in(database, view, age * (7 - number)) for number in range(7)]
    found = list(pages(database, view, PageQuery(limit)))
    assert [len(page) for page in found] == [limit] * (7 // limit) + [7 % limit] * (7 % limit > 0)
    assert [*chain(*found)] == (made if age else sorted(made))


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize("age", [0, 1], ids=["at one moment", "one after the other"])
def test_jobs_that_leave_between_pages_hide_no_others(
    database: Database, view: View, age: float
) -> None:
    for number in range(9):
        make_job_in(database, view, age * (9 - number))
    query, seen = PageQuery(2), []
    everything = next(pages(database, view, PageQuery(200)))
    for page in pages(database, view, query):
        seen += page
        for job_id in page:
            remove_from(database, view, job_id)
    assert seen == everything
    assert next(pages(database, view, PageQuery(200))) == []


@pytest.mark.parametrize("view", EVERY_VIEW)
def test_before_shows_only_jobs_that_old(database: Database, view: View) -> None:
    made = [make_job_in(database, view, age) for age in (30, 20, 10)]
    for age, expected in ((0, made), (20, made[:2]), (21, made[:1]), (31, [])):
        query = PageQuery(2, before=NOW - seconds(age))
        assert [*chain(*pages(database, view, query))] == expected


def test_a_filter_that_matches_nothing_examines_a_thousand_jobs_and_gives_a_cursor(
    database: Database,
) -> None:
    index = {str(uuid4()): NOW.timestamp() + number for number in range(2_500)}
    database.redis.zadd(keys.UNKNOWN, index)
    assert [*database.jobs.due_index.listed(keys.UNKNOWN)] == list(index)
    first = database.projects.jobs_in_view(View.UNKNOWN, PageQuery(50), NO_JOB)
    assert first.items == []
    assert first.next_cursor is not None
    assert first.next_cursor.endswith(list(index)[999])
    rest = [database.projects.jobs_in_view(View.UNKNOWN, PageQuery(50, first.next_cursor), NO_JOB)]
    while rest[-1].next_cursor:
        rest.append(
            database.projects.jobs_in_view(View.UNKNOWN, PageQuery(50, rest[-1].next_cursor))
        )
    assert len(rest) == 2


def test_a_failed_job_is_listed_by_the_time_of_its_failure_until_it_is_deleted(
    database: Database,
) -> None:
    job_id = failed(database, 10)
    assert list(pages(database, View.FAILED, PageQuery(9))) == [[job_id]]
    later = NOW + seconds(3600)
    database.jobs.update(
        job_id, lambda record: edit(Change(record, later, POLICY), {"name": "New"})
    )
    assert list(pages(database, View.FAILED, PageQuery(9, before=NOW - seconds(10)))) == [[job_id]]
    database.delete(job_id)
    assert database.redis.zcard(keys.jobs_in("FAILED")) == 0


def test_the_overview_counts_every_state_that_is_not_terminal(database: Database) -> None:
    database.new_job()
    for _ in range(2):
        database.uploaded()
    failed(database, 60)
    failed(database, 25 * 3600)
    seen = overview.overview(database.client, [], NOW, POLICY)
    counted = {status: count for status, count in seen.jobs.items() if count}
    assert counted == {JobStatus.CREATED: 1, JobStatus.UPLOADED: 2}
    assert len(seen.jobs) == 12
    assert seen.failed_lately == 1


def test_the_overview_counts_open_claims_by_phase_and_says_how_old_the_oldest_are(
    database: Database,
) -> None:
    database.accepted(NOW - seconds(900))
    token = database.run(database.uploaded(), NOW - seconds(100))
    assert database.begin(token, NOW - seconds(60))
    assert database.settle(token, ClaimEvent.LOST, NOW - seconds(50))
    database.run(database.uploaded(), NOW - seconds(10))
    seen = overview.overview(database.client, [], NOW, POLICY)
    assert seen.phases == {Phase.CLAIMED: 1, Phase.SENDING: 0, Phase.UNKNOWN: 1}
    assert seen.oldest_claim_age == 100
    assert seen.oldest_unknown_age == 60, "since its post"


def test_fail_does_not_apply_to_a_retry_begun_meanwhile(database: Database) -> None:
    job_id, acts = database.accepted().job_id, iter(range(1))

    def now() -> datetime:
        """The clock; at its first call, the run fails by itself and its retry is accepted."""
        for _ in acts:
            report(database, job_id, JobStatus.FAILED)
            database.jobs.update(
                job_id, lambda r: decide_retry(Change(r, NOW, POLICY), "again", "standard")
            )
            again = database.record(job_id).token
            assert database.begin(again)
            assert database.settle(again, ClaimEvent.ACCEPTED)
            report(database, job_id, JobStatus.AUDIO_EXTRACTING)
        return NOW

    with pytest.raises(JobAlreadyRunning):
        operations(database, now).fail(job_id, OperatorAct("olga", "it hangs"))
    assert database.record(job_id).job.status is JobStatus.AUDIO_EXTRACTING


def test_settle_does_not_apply_to_a_later_dispatch(database: Database) -> None:
    job_id, acts = database.unknown().job_id, iter(range(1))
    act, release = OperatorAct("olga", "it never arrived"), ClaimEvent.SETTLED_RELEASE

    def now() -> datetime:
        """The clock; at its first call, another operator releases the job, and a new send is lost."""
        for _ in acts:
            database.jobs.update(
                job_id, lambda r: settle_by_operator(Change(r, NOW, POLICY, act=act), release)
            )
            again = database.run(job_id)
            assert database.begin(again)
            assert database.settle(again, ClaimEvent.LOST)
        return NOW

    with pytest.raises(NothingToSettle):
        operations(database, now).settle(job_id, "release", act)
    assert (database.claim(job_id).phase, database.claim(job_id).epoch) == (Phase.UNKNOWN, 2)
