"""A page takes as long from a list of 200,000 jobs as from one of 100, and a filter's cost is bounded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from urllib.parse import quote

import pytest
import requests

from devstack.stack import Stack
from tests.conftest import NewStack
from tests.load.measuring import quantile, timed
from tests.load.seeds import listed_jobs
from tests.support.client import ApiClient

FEW, SOME, MANY = 100, 2_000, 200_000
REPETITIONS = 60
# Allows for noise on a busy machine; a list that is read from its beginning exceeds it a thousandfold.
MOST_RATIO = 2.0


@dataclass(frozen=True)
class Editor:
    """An editor with a number of jobs in one project."""

    client: ApiClient
    project_id: str

    def get(self, path: str) -> Callable[[], requests.Response]:
        """Return a call that reads a page."""
        return lambda: self.client.get(path.format(project=self.project_id))


@pytest.fixture(scope="module")
def editors(new_stack: NewStack) -> Iterator[dict[int, Editor]]:
    with new_stack(workers=0) as stack:
        yield {number: _editor(stack, number) for number in (FEW, SOME, MANY)}


def _editor(stack: Stack, number: int) -> Editor:
    user = f"has-{number}"
    return Editor(ApiClient(stack.api_url, user), listed_jobs(stack, user, number))


def ratio(many: Callable[[], requests.Response], few: Callable[[], requests.Response]) -> float:
    """Return the ratio of the two calls' median durations, measured alternately."""
    calls = chain.from_iterable(repeat((many, few), REPETITIONS))
    seconds = [timed(call) for call in calls]
    return quantile(seconds[::2], 0.5) / quantile(seconds[1::2], 0.5)


@pytest.mark.parametrize(
    "path",
    [
        "/jobs",
        "/jobs?order=asc",
        "/jobs?project_id={project}",
        "/jobs?updated_after=2020-01-01T00:00:00Z",
        "/projects/{project}/jobs",
        "/projects",
    ],
)
def test_the_first_page_takes_as_long_with_200000_jobs_as_with_100(
    path: str, editors: dict[int, Editor]
) -> None:
    many, few = editors[MANY].get(path), editors[FEW].get(path)
    assert len(many().json()["items"]) == len(few().json()["items"])
    assert ratio(many, few) < MOST_RATIO


@pytest.mark.parametrize("path", ["/jobs?limit=50", "/projects/{project}/jobs?limit=50"])
def test_a_later_page_takes_as_long_as_the_first(path: str, editors: dict[int, Editor]) -> None:
    many = editors[MANY]
    cursor = many.get(path)().json()["next_cursor"]
    for _ in range(100):
        cursor = many.get(f"{path}&cursor={cursor}")().json()["next_cursor"]
    assert ratio(many.get(f"{path}&cursor={cursor}"), many.get(path)) < MOST_RATIO


@pytest.mark.parametrize(
    "path",
    [
        "/jobs?status=DONE",
        "/projects/{project}/jobs?status=DONE",
        f"/jobs?updated_after={quote('2020-01-01T00:00:00Z')}&status=DONE",
    ],
)
def test_a_filter_without_matches_stops_at_a_bound_and_returns_a_cursor(
    path: str, editors: dict[int, Editor]
) -> None:
    many, some = editors[MANY].get(path), editors[SOME].get(path)
    first = many().json()
    assert first["items"] == []
    assert first["next_cursor"] is not None
    assert ratio(many, some) < MOST_RATIO
    # Following the cursors ends, and reads no entry twice.
    pages, cursor = 1, some().json()["next_cursor"]
    while cursor is not None:
        answer = editors[SOME].get(f"{path}&cursor={cursor}")().json()
        assert answer["items"] == []
        pages, cursor = pages + 1, answer["next_cursor"]
    assert pages <= 3
