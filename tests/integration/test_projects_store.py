"""Projects and the lists of projects and jobs: pages, filters, and lists that name what is not there."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from domain import lifecycle
from domain.job import Project
from domain.job_fsm import JobStatus
from domain.record import Record
from store import keys, lists
from store.lists import Page, PageQuery
from tests.support.stores import NOW, Shelf, seconds

NEWEST = {"newest_first": True}


def a_project(owner: str = "alice", moment: int = 0) -> Project:
    """A project that was made `moment` seconds later than others."""
    return Project(id=str(uuid4()), name="P", owner=owner, created_at=NOW + seconds(moment))


def _ids(page: Page[Record]) -> list[str]:
    return [record.job.id for record in page.items]


def _pages(read: Callable[[str | None], Page[Any]]) -> list[list[Any]]:
    """All pages of a list."""
    pages, cursor = [], None
    while len(pages) < 100:
        page = read(cursor)
        pages.append(page.items)
        if page.next_cursor is None:
            return pages
        assert page.next_cursor != cursor
        cursor = page.next_cursor
    raise AssertionError("the pages have no end")


def _of_project(shelf: Shelf, limit: int, status: JobStatus | None = None) -> list[list[str]]:
    def read(cursor: str | None) -> Page[Record]:
        return shelf.projects.jobs(shelf.project.id, PageQuery(limit, cursor), status)

    return [[record.job.id for record in page] for page in _pages(read)]


def _of_user(shelf: Shelf, limit: int = 2, user: str = "alice", **query: Any) -> list[str]:
    filters = {name: query.pop(name) for name in ("status", "project_id") if name in query}

    def read(cursor: str | None) -> Page[Record]:
        return shelf.projects.jobs_of_user(user, PageQuery(limit, cursor, **query), **filters)

    return [record.job.id for page in _pages(read) for record in page]


def _flat(pages: list[list[str]]) -> list[str]:
    return [each for page in pages for each in page]


def _made(shelf: Shelf, number: int) -> list[str]:
    """Make jobs, each a second after the one before; return their ids, the oldest first."""
    return [shelf.new_job(NOW + seconds(each)) for each in range(number)]


def _confirm(shelf: Shelf, job_id: str, moment: float = 0) -> None:
    now = NOW + seconds(moment)
    shelf.jobs.update(job_id, lambda r: lifecycle.confirm_upload(r, "s3://v", now, None))


def test_a_project_is_read_as_it_was_made(shelf: Shelf) -> None:
    assert shelf.projects.load(shelf.project.id) == shelf.project
    assert shelf.projects.load("no-such-project") is None


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_a_user_sees_their_own_projects_oldest_first(shelf: Shelf, limit: int) -> None:
    more = [a_project(moment=each + 1) for each in range(4)]
    bobs = a_project("bob")
    for project in [*reversed(more), bobs]:
        assert shelf.projects.create(project)

    def of(user: str) -> list[Project]:
        pages = _pages(lambda cursor: shelf.projects.of_user(user, PageQuery(limit, cursor)))
        return [project for page in pages for project in page]

    assert of("alice") == [shelf.project, *more]
    assert of("bob") == [bobs]
    assert of("carol") == []


def test_a_list_entry_without_its_project_is_passed_over_and_taken_off(shelf: Shelf) -> None:
    name = keys.user_projects("alice")
    shelf.redis.zadd(name, {lists.entry(NOW - seconds(1), "is-gone"): 0})
    assert shelf.projects.of_user("alice", PageQuery(1)).items == [shelf.project]
    assert shelf.redis.zcard(name) == 1


def test_an_unreadable_project_hides_only_itself(shelf: Shelf) -> None:
    other = a_project(moment=1)
    shelf.projects.create(other)
    shelf.redis.set(keys.project(shelf.project.id), "{")
    assert shelf.projects.of_user("alice", PageQuery(10)).items == [other]
    assert shelf.redis.zcard(keys.user_projects("alice")) == 2


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_pages_show_every_job_once_and_oldest_first(shelf: Shelf, limit: int) -> None:
    made = _made(shelf, 7)
    pages = _of_project(shelf, limit)
    assert _flat(pages) == made
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-7 // limit)


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_jobs_of_the_same_microsecond_are_each_shown_once(shelf: Shelf, limit: int) -> None:
    made = {shelf.new_job() for _ in range(7)}
    for ids in (
        _flat(_of_project(shelf, limit)),
        _of_user(shelf, limit),
        _of_user(shelf, limit, **NEWEST),
    ):
        assert (set(ids), len(ids)) == (made, 7)


def test_a_project_without_jobs_has_one_empty_page(shelf: Shelf) -> None:
    assert _of_project(shelf, 10) == [[]]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_a_filter_shows_every_job_of_the_status_and_no_other(shelf: Shelf, limit: int) -> None:
    made = _made(shelf, 9)
    wanted = [job_id for number, job_id in enumerate(made) if number % 3 == 1]
    for job_id in wanted:
        _confirm(shelf, job_id)
    assert _flat(_of_project(shelf, limit, JobStatus.UPLOADED)) == wanted
    assert len(_flat(_of_project(shelf, limit, JobStatus.CREATED))) == 6
    assert _of_project(shelf, limit, JobStatus.DONE)[-1] == []
    assert _of_user(shelf, limit, status=JobStatus.UPLOADED, **NEWEST) == wanted[::-1]


def test_a_filter_that_finds_little_stops_after_a_bound_and_can_go_on(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.lists._MOST_EXAMINED", 10)
    made = _made(shelf, 25)
    last = shelf.uploaded(NOW + seconds(99))
    page = shelf.projects.jobs(shelf.project.id, PageQuery(5), JobStatus.UPLOADED)
    assert (page.items, page.next_cursor) == ([], lists.entry(NOW + seconds(9), made[9]))
    assert _flat(_of_project(shelf, 5, JobStatus.UPLOADED)) == [last]


def test_a_list_entry_without_its_job_is_passed_over_on_every_page_and_taken_off(
    shelf: Shelf,
) -> None:
    jobs = keys.project_jobs(shelf.project.id)
    for limit in (1, 2, 3, 10):
        made = _made(shelf, 2)
        for moment in (-1, 0.5, 0.6, 2):
            shelf.redis.zadd(jobs, {lists.entry(NOW + seconds(moment), "is-gone"): 0})
        assert _flat(_of_project(shelf, limit)) == made
        assert shelf.redis.zcard(jobs) == 2
        for job_id in made:
            shelf.jobs.delete(job_id, lambda record: None)


def test_a_page_shows_the_claim_as_it_stands_with_its_job(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    (record,) = shelf.projects.jobs(shelf.project.id, PageQuery(10)).items
    assert record == shelf.record(token.job_id)
    assert record.claim is not None


def test_what_is_made_or_deleted_while_pages_are_read_moves_nothing(shelf: Shelf) -> None:
    made = _made(shelf, 6)
    first = shelf.projects.jobs(shelf.project.id, PageQuery(3))
    for job_id in made[1:4]:  # the cursor is one of them
        shelf.jobs.delete(job_id, lambda record: None)
    made.append(shelf.new_job(NOW + seconds(9)))
    assert first.next_cursor is not None
    rest = shelf.projects.jobs(shelf.project.id, PageQuery(10, first.next_cursor))
    assert _ids(first) + _ids(rest) == made[:3] + made[4:]


def test_a_user_sees_all_their_jobs_and_only_theirs(shelf: Shelf) -> None:
    other, bobs = a_project(), a_project("bob")
    assert shelf.projects.create(other)
    assert shelf.projects.create(bobs)
    projects = [shelf.project, other, bobs]
    made = [shelf.new_job(NOW + seconds(each), projects[each % 3]) for each in range(9)]
    own = [job_id for number, job_id in enumerate(made) if number % 3 != 2]
    assert _of_user(shelf) == own
    assert _of_user(shelf, **NEWEST) == own[::-1]
    assert _of_user(shelf, project_id=other.id, **NEWEST) == made[1::3][::-1]
    assert _of_user(shelf, project_id=bobs.id) == []
    assert _of_user(shelf, project_id="no-such-project") == []
    assert _of_user(shelf, user="bob") == made[2::3]


def test_by_change_are_listed_those_that_changed_after_a_moment(shelf: Shelf) -> None:
    other = a_project()
    shelf.projects.create(other)
    made = _made(shelf, 4)
    elsewhere = shelf.new_job(NOW + seconds(4), other)
    for moment, number in ((10, 2), (11, 0), (12, 1), (13, 2)):
        name = f"at {moment}"
        now = NOW + seconds(moment)
        shelf.jobs.update(
            made[number], lambda r, name=name, now=now: lifecycle.edit(r, {"name": name}, now)
        )
    by_change = [made[3], elsewhere, made[0], made[1], made[2]]
    assert _of_user(shelf, after=NOW) == by_change
    assert _of_user(shelf, after=NOW, **NEWEST) == by_change[::-1]
    assert _of_user(shelf, after=NOW + seconds(11)) == [made[1], made[2]]
    assert _of_user(shelf, after=NOW + seconds(13)) == []
    assert _of_user(shelf, after=NOW, project_id=other.id) == [elsewhere]
    assert shelf.redis.zcard(keys.user_changes("alice")) == 5


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_cursor_of_elsewhere_shows_nothing_outside_of_what_is_asked_for(
    shelf: Shelf, newest_first: bool
) -> None:
    made = _made(shelf, 6)
    span = {"after": NOW + seconds(1), "before": NOW + seconds(4)}
    for moment in range(-1, 7):
        cursor = lists.entry(NOW + seconds(moment), made[0])
        query = PageQuery(10, cursor, newest_first, **span)
        behind = range(2, min(5, moment)) if newest_first else range(max(2, moment + 1), 5)
        found = _ids(shelf.projects.jobs_of_user("alice", query))
        # A job of the cursor's own moment is behind it or not, by its id.
        at_cursor = {made[moment]} if 2 <= moment <= 4 else set()
        assert set(found) - at_cursor == {made[each] for each in behind}


def test_a_stale_place_by_change_is_passed_over_and_taken_off(shelf: Shelf) -> None:
    """As a process of the earlier release leaves it, and as one that reads meets it."""
    job_id = shelf.new_job()
    shelf.redis.zadd(keys.user_changes("alice"), {lists.entry(NOW + seconds(1), job_id): 0})
    assert _of_user(shelf, after=NOW - seconds(1)) == [job_id]
    assert shelf.redis.zcard(keys.user_changes("alice")) == 1
