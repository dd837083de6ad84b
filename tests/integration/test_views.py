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
from domain.record import Change, Record
from domain.retry import decide_retry
from domain.status_callback import StatusCallback, apply_callback
from services.operations import Operations
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from store import keys, overview
from store.indexes import View
from store.lists import PageQuery, every_page
from store.notifier import Notifier
from store.write_limit import WriteLimit
from tests.support.stores import NOW, POLICY, Shelf, seconds

EVERY_VIEW = [View.UNKNOWN, View.IN_FLIGHT, View.FAILED]


def operations(shelf: Shelf, now: Callable[[], datetime]) -> Operations:
    slots, writes = WaitSlots(2), WriteLimit("", shelf.client)
    runs = RunAndWait(shelf.jobs, Notifier(shelf.client), POLICY, slots, writes, now)
    return Operations(shelf.jobs, shelf.projects, runs, 1.0, POLICY, now)


def any_job(_: Record) -> bool:
    return True


def pages(shelf: Shelf, view: View, query: PageQuery) -> Iterator[list[str]]:
    """The ids on each page, which is read on demand."""
    read = partial(shelf.projects.jobs_in_view, view, is_wanted=any_job)
    return ([record.job.id for record in page.items] for page in every_page(read, query))


def make_job_in(shelf: Shelf, view: View, age: float = 0) -> str:
    """Make a job that is in the view since `age` seconds before NOW; return its id."""
    if view is View.FAILED:
        return failed(shelf, age)
    return shelf.unknown(NOW - seconds(age)).job_id


def failed(shelf: Shelf, age: float = 0) -> str:
    """Make a job that failed `age` seconds before NOW; return its id."""
    job_id = shelf.accepted(NOW - seconds(age)).job_id
    report(shelf, job_id, JobStatus.FAILED, age)
    return job_id


def report(shelf: Shelf, job_id: str, status: JobStatus, age: float = 0) -> None:
    then = NOW - seconds(age)
    callback = StatusCallback(str(uuid4()), "digest", status, then, "c")
    shelf.jobs.update(
        job_id, lambda record: apply_callback(Change(record, then, POLICY), callback), event_id="x"
    )


def remove_from(shelf: Shelf, view: View, job_id: str) -> None:
    """Make the job leave the view."""
    if view is View.FAILED:
        shelf.delete(job_id)
    else:
        shelf.jobs.update(job_id, lambda record: cancel(Change(record, NOW, POLICY)))
        claim = shelf.record(job_id).token
        assert shelf.settle(claim, ClaimEvent.ACCEPTED)


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize("age", [0, 1], ids=["at one moment", "one after the other"])
@pytest.mark.parametrize("limit", [1, 3, 7, 200])
def test_every_job_is_on_one_page_oldest_first(
    shelf: Shelf, view: View, age: float, limit: int
) -> None:
    made = [make_job_in(shelf, view, age * (7 - number)) for number in range(7)]
    found = list(pages(shelf, view, PageQuery(limit)))
    assert [len(page) for page in found] == [limit] * (7 // limit) + [7 % limit] * (7 % limit > 0)
    assert [*chain(*found)] == (made if age else sorted(made))


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize("age", [0, 1], ids=["at one moment", "one after the other"])
def test_jobs_that_leave_between_pages_hide_no_others(shelf: Shelf, view: View, age: float) -> None:
    for number in range(9):
        make_job_in(shelf, view, age * (9 - number))
    query, seen = PageQuery(2), []
    everything = next(pages(shelf, view, PageQuery(200)))
    for page in pages(shelf, view, query):
        seen += page
        for job_id in page:
            remove_from(shelf, view, job_id)
    assert seen == everything
    assert next(pages(shelf, view, PageQuery(200))) == []


@pytest.mark.parametrize("view", EVERY_VIEW)
def test_before_shows_only_jobs_that_old(shelf: Shelf, view: View) -> None:
    made = [make_job_in(shelf, view, age) for age in (30, 20, 10)]
    for age, expected in ((0, made), (20, made[:2]), (21, made[:1]), (31, [])):
        query = PageQuery(2, before=NOW - seconds(age))
        assert [*chain(*pages(shelf, view, query))] == expected


def test_a_filter_that_matches_nothing_examines_a_thousand_jobs_and_gives_a_cursor(
    shelf: Shelf,
) -> None:
    index = {str(uuid4()): NOW.timestamp() + number for number in range(2_500)}
    shelf.redis.zadd(keys.UNKNOWN, index)
    first = shelf.projects.jobs_in_view(View.UNKNOWN, PageQuery(50), lambda _: False)
    assert first.items == []
    assert first.next_cursor is not None
    assert first.next_cursor.endswith(list(index)[999])
    rest = [
        shelf.projects.jobs_in_view(View.UNKNOWN, PageQuery(50, first.next_cursor), lambda _: False)
    ]
    while rest[-1].next_cursor:
        rest.append(
            shelf.projects.jobs_in_view(View.UNKNOWN, PageQuery(50, rest[-1].next_cursor), any_job)
        )
    assert len(rest) == 2


def test_a_failed_job_is_listed_by_the_time_of_its_failure_until_it_is_deleted(
    shelf: Shelf,
) -> None:
    job_id = failed(shelf, 10)
    assert list(pages(shelf, View.FAILED, PageQuery(9))) == [[job_id]]
    later = NOW + seconds(3600)
    shelf.jobs.update(job_id, lambda record: edit(Change(record, later, POLICY), {"name": "New"}))
    assert list(pages(shelf, View.FAILED, PageQuery(9, before=NOW - seconds(10)))) == [[job_id]]
    shelf.delete(job_id)
    assert shelf.redis.zcard(keys.jobs_in("FAILED")) == 0


def test_the_overview_counts_every_state_that_is_not_terminal(shelf: Shelf) -> None:
    shelf.new_job()
    for _ in range(2):
        shelf.uploaded()
    failed(shelf, 60)
    failed(shelf, 25 * 3600)
    seen = overview.overview(shelf.client, [], NOW)
    counted = {status: count for status, count in seen.jobs.items() if count}
    assert counted == {JobStatus.CREATED: 1, JobStatus.UPLOADED: 2}
    assert len(seen.jobs) == 12
    assert seen.failed_lately == 1


def test_fail_does_not_apply_to_a_retry_begun_meanwhile(shelf: Shelf) -> None:
    job_id, acts = shelf.accepted().job_id, iter(range(1))

    def now() -> datetime:
        """The clock; at its first call, the run fails by itself and its retry is accepted."""
        for _ in acts:
            report(shelf, job_id, JobStatus.FAILED)
            shelf.jobs.update(
                job_id, lambda r: decide_retry(Change(r, NOW, POLICY), "again", "standard")
            )
            again = shelf.record(job_id).token
            assert shelf.begin(again)
            assert shelf.settle(again, ClaimEvent.ACCEPTED)
            report(shelf, job_id, JobStatus.AUDIO_EXTRACTING)
        return NOW

    with pytest.raises(JobAlreadyRunning):
        operations(shelf, now).fail(job_id, OperatorAct("olga", "it hangs"))
    assert shelf.record(job_id).job.status is JobStatus.AUDIO_EXTRACTING


def test_settle_does_not_apply_to_a_later_dispatch(shelf: Shelf) -> None:
    job_id, acts = shelf.unknown().job_id, iter(range(1))
    act, release = OperatorAct("olga", "it never arrived"), ClaimEvent.SETTLED_RELEASE

    def now() -> datetime:
        """The clock; at its first call, another operator releases the job, and a new send is lost."""
        for _ in acts:
            shelf.jobs.update(
                job_id, lambda r: settle_by_operator(Change(r, NOW, POLICY, act=act), release)
            )
            again = shelf.run(job_id)
            assert shelf.begin(again)
            assert shelf.settle(again, ClaimEvent.LOST)
        return NOW

    with pytest.raises(NothingToSettle):
        operations(shelf, now).settle(job_id, "release", act)
    assert (shelf.claim(job_id).phase, shelf.claim(job_id).epoch) == (Phase.UNKNOWN, 2)
