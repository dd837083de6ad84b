"""Projects, and the lists of projects and jobs: pages, filters, cursors and stale entries."""

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import Any
from uuid import uuid4

import pytest

from domain import lifecycle
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import Change, Record
from store import keys, lists
from store.lists import JobFilter, Page, PageQuery, every_page
from tests.support.stores import NOW, POLICY, Database, seconds

NEWEST = {"newest_first": True}


def new_project(owner: str = "alice", moment: int = 0) -> Project:
    """A project that is not stored, created `moment` seconds after NOW."""
    return Project(id=str(uuid4()), name="P", owner=owner, created_at=NOW + seconds(moment))


def _ids(page: Page[Record]) -> list[str]:
    return [record.job.id for record in page.items]


def _of_project(database: Database, limit: int, status: JobStatus | None = None) -> list[list[str]]:
    wanted = JobFilter(status=status)
    read = partial(database.projects.jobs, database.project.id, wanted=wanted)
    return [_ids(page) for page in every_page(read, PageQuery(limit))]


def _of_user(database: Database, limit: int = 2, user: str = "alice", **query: Any) -> list[str]:
    filters = {name: query.pop(name) for name in ("status", "project_id") if name in query}
    read = partial(database.projects.jobs_of_user, user, wanted=JobFilter(**filters))
    return _flat(_ids(page) for page in every_page(read, PageQuery(limit, **query)))


def _flat(pages: Iterable[list[str]]) -> list[str]:
    return [*chain(*pages)]


def _new_jobs(database: Database, number: int) -> list[str]:
    """Make jobs, a second apart; return their ids, the oldest first."""
    return [database.new_job(NOW + seconds(second)) for second in range(number)]


def test_a_project_is_read_as_it_was_created(database: Database) -> None:
    assert database.projects.load(database.project.id) == database.project
    assert database.projects.load("no-such-project") is None


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_a_user_sees_their_own_projects_oldest_first(database: Database, limit: int) -> None:
    more = [new_project(moment=second) for second in range(1, 5)]
    bobs = new_project("bob")
    for project in [*reversed(more), bobs]:
        assert database.projects.create(project)

    def of(user: str) -> list[Project]:
        pages = every_page(partial(database.projects.of_user, user), PageQuery(limit))
        return [project for page in pages for project in page.items]

    assert of("alice") == [database.project, *more]
    assert of("bob") == [bobs]
    assert of("carol") == []


def test_the_list_entry_of_a_missing_project_is_skipped_and_removed(database: Database) -> None:
    name = keys.user_projects("alice")
    database.redis.zadd(name, {lists.entry(NOW - seconds(1), "is-gone"): 0})
    assert database.projects.of_user("alice", PageQuery(1)).items == [database.project]
    assert database.redis.zcard(name) == 1


def test_an_unreadable_project_does_not_hide_others(database: Database) -> None:
    other = new_project(moment=1)
    database.projects.create(other)
    database.redis.set(keys.project(database.project.id), "{")
    assert database.projects.of_user("alice", PageQuery(10)).items == [other]
    assert database.redis.zcard(keys.user_projects("alice")) == 2


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_pages_show_every_job_once_and_oldest_first(database: Database, limit: int) -> None:
    made = _new_jobs(database, 7)
    pages = _of_project(database, limit)
    assert _flat(pages) == made
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-7 // limit)


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_jobs_of_one_microsecond_are_shown_once_each(database: Database, limit: int) -> None:
    made = {database.new_job() for _ in range(7)}
    for ids in (
        _flat(_of_project(database, limit)),
        _of_user(database, limit),
        _of_user(database, limit, **NEWEST),
    ):
        assert (set(ids), len(ids)) == (made, 7)


def test_a_project_without_jobs_has_one_empty_page(database: Database) -> None:
    assert _of_project(database, 10) == [[]]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_a_filter_shows_exactly_the_jobs_in_the_status(database: Database, limit: int) -> None:
    made = _new_jobs(database, 9)
    wanted = [job_id for number, job_id in enumerate(made) if number % 3 == 1]
    for job_id in wanted:
        database.jobs.update(
            job_id, lambda r: lifecycle.confirm_upload(Change(r, NOW, POLICY), "s3://v")
        )
    assert _flat(_of_project(database, limit, JobStatus.UPLOADED)) == wanted
    assert len(_flat(_of_project(database, limit, JobStatus.CREATED))) == 6
    assert _of_project(database, limit, JobStatus.DONE)[-1] == []
    assert _of_user(database, limit, status=JobStatus.UPLOADED, **NEWEST) == wanted[::-1]


def test_a_filter_that_finds_little_ends_the_page_with_a_cursor(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.lists._MOST_EXAMINED", 10)
    made = _new_jobs(database, 25)
    last = database.uploaded(NOW + seconds(99))
    wanted = JobFilter(status=JobStatus.UPLOADED)
    page = database.projects.jobs(database.project.id, PageQuery(5), wanted)
    assert (page.items, page.next_cursor) == ([], lists.entry(NOW + seconds(9), made[9]))
    assert _flat(_of_project(database, 5, JobStatus.UPLOADED)) == [last]


def test_a_page_of_large_jobs_ends_behind_a_mebibyte_of_them(database: Database) -> None:
    large = {"metadata": {str(key): "x" * 500 for key in range(100)}}
    created = _new_jobs(database, 50)
    for job_id in created:
        database.jobs.update(
            job_id, lambda record: lifecycle.edit(Change(record, NOW, POLICY), large)
        )
    for pages in (_of_project(database, 200), _of_project(database, 200, JobStatus.CREATED)):
        assert _flat(pages) == created
        assert [20 < len(page) < 24 for page in pages] == [True, True, False]
    assert _of_project(database, 200, JobStatus.UPLOADED) == [[], [], []]


def test_list_entries_of_missing_jobs_are_skipped_on_every_page_and_removed(
    database: Database,
) -> None:
    jobs = keys.project_jobs(database.project.id)
    for limit in (1, 2, 3, 10):
        made = _new_jobs(database, 2)
        for moment in (-1, 0.5, 0.6, 2):
            database.redis.zadd(jobs, {lists.entry(NOW + seconds(moment), "is-gone"): 0})
        assert _flat(_of_project(database, limit)) == made
        assert database.redis.zcard(jobs) == 2
        for job_id in made:
            database.delete(job_id)


def test_a_page_has_the_jobs_claims(database: Database) -> None:
    token = database.run(database.uploaded())
    (record,) = database.projects.jobs(database.project.id, PageQuery(10)).items
    assert record == database.record(token.job_id)
    assert record.claim is not None


def test_jobs_created_or_deleted_while_paging_shift_no_other(database: Database) -> None:
    made = _new_jobs(database, 6)
    first = database.projects.jobs(database.project.id, PageQuery(3))
    for job_id in made[1:4]:  # the cursor is one of them
        database.delete(job_id)
    made.append(database.new_job(NOW + seconds(9)))
    assert first.next_cursor is not None
    rest = database.projects.jobs(database.project.id, PageQuery(10, first.next_cursor))
    assert _ids(first) + _ids(rest) == made[:3] + made[4:]


def test_a_user_sees_exactly_their_own_jobs(database: Database) -> None:
    other, bobs = new_project(), new_project("bob")
    assert database.projects.create(other)
    assert database.projects.create(bobs)
    projects = [database.project, other, bobs]
    made = [database.new_job(NOW + seconds(n), projects[n % 3]) for n in range(9)]
    own = [job_id for number, job_id in enumerate(made) if number % 3 != 2]
    assert _of_user(database) == own
    assert _of_user(database, **NEWEST) == own[::-1]
    assert _of_user(database, project_id=other.id, **NEWEST) == made[1::3][::-1]
    assert _of_user(database, project_id=bobs.id) == []
    assert _of_user(database, project_id="no-such-project") == []
    assert _of_user(database, user="bob") == made[2::3]


def test_the_list_by_change_has_the_jobs_that_changed_after_a_moment(database: Database) -> None:
    other = new_project()
    database.projects.create(other)
    made = _new_jobs(database, 4)
    elsewhere = database.new_job(NOW + seconds(4), other)
    for moment, number in ((10, 2), (11, 0), (12, 1), (13, 2)):
        name = f"at {moment}"
        now = NOW + seconds(moment)
        database.jobs.update(
            made[number],
            lambda r, name=name, now=now: lifecycle.edit(Change(r, now, POLICY), {"name": name}),
        )
    by_change = [made[3], elsewhere, made[0], made[1], made[2]]
    assert _of_user(database, after=NOW) == by_change
    assert _of_user(database, after=NOW, **NEWEST) == by_change[::-1]
    assert _of_user(database, after=NOW + seconds(11)) == [made[1], made[2]]
    assert _of_user(database, after=NOW + seconds(13)) == []
    assert _of_user(database, after=NOW, project_id=other.id) == [elsewhere]
    assert database.redis.zcard(keys.user_changes("alice")) == 5


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_cursor_of_another_list_shows_nothing_outside_the_range(
    database: Database, newest_first: bool
) -> None:
    made = _new_jobs(database, 6)
    span = {"after": NOW + seconds(1), "before": NOW + seconds(4)}
    for moment in range(-1, 7):
        cursor = lists.entry(NOW + seconds(moment), made[0])
        query = PageQuery(10, cursor, newest_first, **span)
        behind = range(2, min(5, moment)) if newest_first else range(max(2, moment + 1), 5)
        found = _ids(database.projects.jobs_of_user("alice", query))
        # Whether a job of the cursor's own moment is behind it depends on its id.
        at_cursor = {made[moment]} if 2 <= moment <= 4 else set()
        assert set(found) - at_cursor == {made[number] for number in behind}


def test_a_stale_entry_by_change_is_skipped_and_removed(database: Database) -> None:
    job_id = database.new_job()
    database.redis.zadd(keys.user_changes("alice"), {lists.entry(NOW + seconds(1), job_id): 0})
    assert _of_user(database, after=NOW - seconds(1)) == [job_id]
    assert database.redis.zcard(keys.user_changes("alice")) == 1
