"""Projects and the lists of their jobs: pages, filters, and lists that name what is not there."""

import pytest

from domain import lifecycle
from domain.job_fsm import JobStatus
from domain.models import Project
from store import keys
from store.projects import JobPage
from tests.support.stores import NOW, Shelf


def _ids(page: JobPage) -> list[str]:
    return [record.job.id for record in page.records]


def _all_pages(shelf: Shelf, limit: int, status: JobStatus | None = None) -> list[list[str]]:
    pages, start = [], 0
    while len(pages) < 100:
        page = shelf.projects.jobs(shelf.project.id, start, limit, status)
        pages.append(_ids(page))
        if page.next_start is None:
            return pages
        assert page.next_start > start
        start = page.next_start
    raise AssertionError("the pages have no end")


def test_a_project_is_read_as_it_was_made(shelf: Shelf) -> None:
    assert shelf.projects.load(shelf.project.id) == shelf.project
    assert shelf.projects.load("no-such-project") is None


def test_a_user_sees_his_own_projects_oldest_first(shelf: Shelf) -> None:
    more = [Project(id=f"p{n}", name=f"P{n}", owner="alice", created_at=NOW) for n in range(3)]
    for project in [*more, Project(id="his", name="x", owner="bob", created_at=NOW)]:
        shelf.projects.create(project)
    assert shelf.projects.of_user("alice") == [shelf.project, *more]
    assert [project.id for project in shelf.projects.of_user("bob")] == ["his"]
    assert shelf.projects.of_user("carol") == []


def test_a_list_entry_without_its_project_is_passed_over(shelf: Shelf) -> None:
    shelf.redis.rpush(keys.user_projects("alice"), "was-never-kept")
    assert shelf.projects.of_user("alice") == [shelf.project]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
def test_pages_show_every_job_once_and_oldest_first(shelf: Shelf, limit: int) -> None:
    made = [shelf.new_job() for _ in range(7)]
    pages = _all_pages(shelf, limit)
    assert [job_id for page in pages for job_id in page] == made
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == -(-7 // limit)


def test_a_project_without_jobs_has_one_empty_page(shelf: Shelf) -> None:
    assert _all_pages(shelf, 10) == [[]]


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
def test_a_filter_shows_every_job_of_the_status_and_no_other(shelf: Shelf, limit: int) -> None:
    made = [shelf.new_job() for _ in range(9)]
    wanted = [job_id for number, job_id in enumerate(made) if number % 3 == 1]
    for job_id in wanted:
        shelf.jobs.apply(job_id, lambda r: lifecycle.confirm_upload(r, "s3://v", NOW, None).change)
    pages = _all_pages(shelf, limit, JobStatus.UPLOADED)
    assert [job_id for page in pages for job_id in page] == wanted
    others = _all_pages(shelf, limit, JobStatus.CREATED)
    assert len([job_id for page in others for job_id in page]) == 6
    assert _all_pages(shelf, limit, JobStatus.DONE)[-1] == []


def test_a_filter_that_finds_little_stops_after_a_bound_and_can_go_on(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.projects._MOST_EXAMINED", 10)
    for _ in range(25):
        shelf.new_job()
    last = shelf.uploaded()
    page = shelf.projects.jobs(shelf.project.id, 0, 5, JobStatus.UPLOADED)
    assert (page.records, page.next_start) == ([], 10)
    pages = _all_pages(shelf, 5, JobStatus.UPLOADED)
    assert [job_id for page in pages for job_id in page] == [last]


def test_a_list_entry_without_its_job_is_passed_over_on_every_page(shelf: Shelf) -> None:
    jobs = keys.project_jobs(shelf.project.id)
    first = shelf.new_job()
    shelf.redis.rpush(jobs, "was-never-kept", "neither-was-this")
    second = shelf.new_job()
    shelf.redis.rpush(jobs, "nor-this")
    for limit in (1, 2, 3, 10):
        pages = _all_pages(shelf, limit)
        assert [job_id for page in pages for job_id in page] == [first, second]


def test_a_page_shows_the_claim_as_it_stands_with_its_job(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    (record,) = shelf.projects.jobs(shelf.project.id, 0, 10).records
    assert record == shelf.record(token.job_id)
    assert record.claim is not None


def test_a_job_made_while_pages_are_read_is_on_the_last_one(shelf: Shelf) -> None:
    made = [shelf.new_job() for _ in range(4)]
    first = shelf.projects.jobs(shelf.project.id, 0, 2)
    made.append(shelf.new_job())
    assert first.next_start is not None
    rest = shelf.projects.jobs(shelf.project.id, first.next_start, 10)
    assert _ids(first) + _ids(rest) == made
