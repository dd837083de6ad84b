"""Lists: GET /jobs with its filters and orders, and the pages of projects."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest

from devstack.stack import Stack
from tests.acceptance.outcomes import every_page
from tests.support.client import ApiClient

Ids = list[str]


def page(client: ApiClient, path: str, **query: Any) -> dict[str, Any]:
    """One page of a list."""
    answer = client.get(f"{path}?{urlencode(query)}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body.keys() == {"items", "next_cursor"}
    return body


def id_pages(client: ApiClient, path: str, **query: Any) -> list[Ids]:
    """The ids on each page of a list."""
    return [[item["id"] for item in items] for items in every_page(client, path, **query)]


def ids(client: ApiClient, **query: Any) -> Ids:
    """The ids of the caller's jobs on all pages."""
    return [*chain(*id_pages(client, "/jobs", **query))]


def made(client: ApiClient, number: int) -> tuple[list[str], list[str]]:
    """Make jobs in two projects alternately; return the projects and the jobs, oldest first."""
    projects = [client.create_project(f"P{number}").json()["id"] for number in range(2)]
    return projects, [client.create_job(projects[n % 2]).json()["id"] for n in range(number)]


def test_jobs_lists_the_callers_jobs_of_all_projects_newest_first(
    editor: ApiClient, stack: Stack
) -> None:
    projects, jobs = made(editor, 5)
    assert ids(editor) == jobs[::-1]
    assert ids(editor, order="desc") == jobs[::-1]
    assert ids(editor, order="asc") == jobs
    assert page(editor, "/jobs")["items"][0] == editor.job(jobs[-1]).json()
    other = ApiClient(stack.api_url, f"other-{uuid4()}")
    assert page(other, "/jobs") == {"items": [], "next_cursor": None}
    assert ids(other, project_id=projects[0]) == []


@pytest.mark.parametrize("limit", [1, 2, 5, 200])
def test_pages_show_every_job_once(editor: ApiClient, limit: int) -> None:
    _, jobs = made(editor, 5)
    for order, expected in (("asc", jobs), ("desc", jobs[::-1])):
        pages = id_pages(editor, "/jobs", limit=limit, order=order)
        assert [*chain(*pages)] == expected
        assert len(pages) == -(-5 // limit)


def test_a_page_has_50_jobs_by_default(editor: ApiClient) -> None:
    project = editor.create_project().json()["id"]
    jobs = [editor.create_job(project).json()["id"] for _ in range(53)]
    for path in ("/jobs", f"/projects/{project}/jobs"):
        assert [len(found) for found in id_pages(editor, path)] == [50, 3]
    assert ids(editor, limit=200) == jobs[::-1]


def test_state_and_project_filters_can_be_combined(editor: ApiClient) -> None:
    projects, jobs = made(editor, 6)
    for job_id in jobs[2:]:
        editor.confirm_upload(job_id, "s3://v")
    assert ids(editor, status="UPLOADED") == jobs[:1:-1]
    assert ids(editor, status="CREATED") == [jobs[1], jobs[0]]
    assert ids(editor, status="DONE") == []
    assert ids(editor, project_id=projects[1]) == [jobs[5], jobs[3], jobs[1]]
    assert ids(editor, project_id=projects[1], order="asc", limit=1) == [jobs[1], jobs[3], jobs[5]]
    assert ids(editor, project_id=projects[0], status="UPLOADED") == [jobs[4], jobs[2]]
    assert ids(editor, project_id=str(uuid4())) == []


def test_updated_after_lists_later_changes_in_their_order(editor: ApiClient) -> None:
    projects, jobs = made(editor, 4)
    last = editor.job(jobs[-1]).json()["updated_at"]
    assert ids(editor, updated_after=last) == []
    editor.confirm_upload(jobs[2], "s3://v")
    editor.edit_job(jobs[0], name="New")
    assert ids(editor, updated_after=last) == [jobs[0], jobs[2]]
    assert ids(editor, updated_after=last, order="asc") == [jobs[2], jobs[0]]
    assert ids(editor, updated_after=last, order="asc", limit=1) == [jobs[2], jobs[0]]
    assert ids(editor, updated_after=last, status="UPLOADED") == [jobs[2]]
    assert ids(editor, updated_after=last, project_id=projects[1]) == []
    newest = editor.job(jobs[0]).json()["updated_at"]
    assert ids(editor, updated_after=newest) == []
    before = datetime.now(UTC) - timedelta(hours=1)
    two_hours_east = before.replace(tzinfo=None) + timedelta(hours=2)
    assert len(ids(editor, updated_after=f"{two_hours_east.isoformat()}+02:00")) == 4


def test_polling_with_the_last_seen_change_shows_every_change(editor: ApiClient) -> None:
    _, jobs = made(editor, 3)
    seen = editor.job(jobs[-1]).json()["updated_at"]
    for name in ("a", "b", "c"):
        for job_id in jobs:
            editor.edit_job(job_id, name=name)
        items = page(editor, "/jobs", updated_after=seen, order="asc")["items"]
        assert [(job["id"], job["name"]) for job in items] == [(job_id, name) for job_id in jobs]
        seen = items[-1]["updated_at"]


def test_deleted_jobs_leave_the_lists_without_shifting_pages(editor: ApiClient) -> None:
    projects, jobs = made(editor, 6)
    first = page(editor, "/jobs", limit=3, order="asc")
    for job_id in jobs[1:4]:
        editor.cancel(job_id)
        assert editor.delete_job(job_id).status_code == 204
    rest = page(editor, "/jobs", limit=3, order="asc", cursor=first["next_cursor"])
    assert [job["id"] for job in rest["items"]] == jobs[4:]
    assert ids(editor) == [jobs[5], jobs[4], jobs[0]]
    assert ids(editor, updated_after="2020-01-01T00:00:00Z", order="asc") == [jobs[0], *jobs[4:]]
    pages = id_pages(editor, f"/projects/{projects[0]}/jobs")
    assert pages == [[jobs[0], jobs[4]]]


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_projects_are_paged_oldest_first(editor: ApiClient, limit: int) -> None:
    assert page(editor, "/projects") == {"items": [], "next_cursor": None}
    projects = [editor.create_project(f"P{number}").json() for number in range(4)]
    pages = id_pages(editor, "/projects", limit=limit)
    assert [*chain(*pages)] == [project["id"] for project in projects]
    assert len(pages) == -(-4 // limit)
    assert page(editor, "/projects")["items"] == projects
