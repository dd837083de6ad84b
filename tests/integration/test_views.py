"""An operator's views on a real store: every page shows each job once, whatever leaves meanwhile."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from uuid import uuid4

import pytest

from domain.audit import OperatorAct
from domain.claim import ClaimEvent, Phase
from domain.claim_rules import settle_by_operator
from domain.errors import JobAlreadyRunning, NothingToSettle
from domain.job_fsm import JobStatus
from domain.lifecycle import cancel, edit
from domain.record import Record
from domain.retry import decide_retry
from domain.status_callback import StatusCallback, apply_callback
from services.operations import Operations
from services.run_and_wait import RunAndWait
from services.wait_slots import WaitSlots
from store import keys, overview
from store.indexes import View
from store.lists import PageQuery
from store.notifier import Notifier
from store.write_limit import WriteLimit
from tests.support.stores import NOW, POLICY, Shelf, seconds

EVERY_VIEW = [View.UNKNOWN, View.IN_FLIGHT, View.FAILED]


def operations(shelf: Shelf, now: Callable[[], datetime]) -> Operations:
    """The operator's use cases on the shelf's store."""
    slots, writes = WaitSlots(2), WriteLimit("", shelf.client)
    runs = RunAndWait(shelf.jobs, Notifier(shelf.client), POLICY, slots, writes, now)
    return Operations(shelf.jobs, shelf.projects, runs, 1.0, POLICY, now)


def any_job(_: Record) -> bool:
    return True


def pages(shelf: Shelf, view: View, query: PageQuery) -> Iterator[list[str]]:
    """The ids on each page."""
    while True:
        page = shelf.projects.jobs_in_view(view, query, any_job)
        yield [record.job.id for record in page.items]
        if page.next_cursor is None:
            return
        query = replace(query, cursor=page.next_cursor)


def put_in(shelf: Shelf, view: View, age: float = 0) -> str:
    """Make a job that is in the view since `age` seconds before NOW."""
    then = NOW - seconds(age)
    if view is View.FAILED:
        return failed(shelf, age)
    return shelf.unknown(then).job_id


def accepted(shelf: Shelf, age: float = 0) -> str:
    """Make a job that the orchestrator has."""
    then = NOW - seconds(age)
    token = shelf.run(shelf.uploaded(then - seconds(9)), then)
    assert shelf.begin(token, then)
    assert shelf.settle(token, ClaimEvent.ACCEPTED, then)
    return token.job_id


def failed(shelf: Shelf, age: float = 0) -> str:
    """Make a job that failed."""
    job_id = accepted(shelf, age)
    report(shelf, job_id, JobStatus.FAILED, age)
    return job_id


def report(shelf: Shelf, job_id: str, status: JobStatus, age: float = 0) -> None:
    then = NOW - seconds(age)
    callback = StatusCallback(str(uuid4()), "digest", status, then, "c")
    shelf.jobs.update(
        job_id, lambda record: apply_callback(record, callback, then, POLICY), event_id="x"
    )


def take_out(shelf: Shelf, view: View, job_id: str) -> None:
    """Let the job leave the view."""
    if view is View.FAILED:
        shelf.jobs.delete(job_id, lambda _: None)
    else:
        shelf.jobs.update(job_id, lambda record: cancel(record, NOW, POLICY, None))
        claim = shelf.record(job_id).token
        assert shelf.settle(claim, ClaimEvent.ACCEPTED)


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize("age", [0, 1], ids=["all of one moment", "one after the other"])
@pytest.mark.parametrize("limit", [1, 3, 7, 200])
def test_every_job_is_on_one_page_and_the_oldest_first(
    shelf: Shelf, view: View, age: float, limit: int
) -> None:
    made = [put_in(shelf, view, age * (7 - number)) for number in range(7)]
    found = list(pages(shelf, view, PageQuery(limit)))
    assert [len(page) for page in found] == [limit] * (7 // limit) + [7 % limit] * (7 % limit > 0)
    in_order = [each for page in found for each in page]
    assert in_order == (made if age else sorted(made))


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize("age", [0, 1], ids=["all of one moment", "one after the other"])
def test_what_leaves_between_two_pages_hides_no_other_job(
    shelf: Shelf, view: View, age: float
) -> None:
    for number in range(9):
        put_in(shelf, view, age * (9 - number))
    query, seen = PageQuery(2), []
    everything = next(pages(shelf, view, PageQuery(200)))
    for page in pages(shelf, view, query):
        seen += page
        for each in page:
            take_out(shelf, view, each)
    assert seen == everything
    assert next(pages(shelf, view, PageQuery(200))) == []


@pytest.mark.parametrize("view", EVERY_VIEW)
def test_only_what_is_as_old_as_was_asked(shelf: Shelf, view: View) -> None:
    made = [put_in(shelf, view, age) for age in (30, 20, 10)]
    for age, expected in ((0, made), (20, made[:2]), (21, made[:1]), (31, [])):
        query = PageQuery(2, before=NOW - seconds(age))
        assert [each for page in pages(shelf, view, query) for each in page] == expected


def test_a_filter_that_matches_nothing_looks_at_a_thousand_and_gives_a_cursor(shelf: Shelf) -> None:
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


def test_a_failed_job_is_listed_by_its_failure_until_it_leaves_failed(shelf: Shelf) -> None:
    job_id = failed(shelf, 10)
    assert list(pages(shelf, View.FAILED, PageQuery(9))) == [[job_id]]
    later = NOW + seconds(3600)
    shelf.jobs.update(job_id, lambda record: edit(record, {"name": "New"}, later))
    assert list(pages(shelf, View.FAILED, PageQuery(9, before=NOW - seconds(10)))) == [[job_id]]
    shelf.jobs.delete(job_id, lambda _: None)
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


def test_an_operator_fails_the_run_that_was_there_and_not_its_retry(shelf: Shelf) -> None:
    job_id, acts = accepted(shelf), iter(range(1))

    def now() -> datetime:
        """The time at which the run fails by itself, and its retry is accepted."""
        for _ in acts:
            report(shelf, job_id, JobStatus.FAILED)
            shelf.jobs.update(job_id, lambda r: decide_retry(r, "again", "standard", NOW, POLICY))
            again = shelf.record(job_id).token
            assert shelf.begin(again)
            assert shelf.settle(again, ClaimEvent.ACCEPTED)
            report(shelf, job_id, JobStatus.AUDIO_EXTRACTING)
        return NOW

    with pytest.raises(JobAlreadyRunning):
        operations(shelf, now).fail(job_id, OperatorAct("olga", "it hangs"))
    assert shelf.record(job_id).job.status is JobStatus.AUDIO_EXTRACTING


def test_an_operator_settles_the_dispatch_that_was_there_and_no_later_one(shelf: Shelf) -> None:
    job_id, acts = shelf.unknown().job_id, iter(range(1))
    act, release = OperatorAct("olga", "it never arrived"), ClaimEvent.SETTLED_RELEASE

    def now() -> datetime:
        """The time at which another operator releases it, and it is sent again to an unknown end."""
        for _ in acts:
            shelf.jobs.update(job_id, lambda r: settle_by_operator(r, release, act, NOW, POLICY))
            again = shelf.run(job_id)
            assert shelf.begin(again)
            assert shelf.settle(again, ClaimEvent.LOST)
        return NOW

    with pytest.raises(NothingToSettle):
        operations(shelf, now).settle(job_id, "release", act)
    assert (shelf.claim(job_id).phase, shelf.claim(job_id).epoch) == (Phase.UNKNOWN, 2)
