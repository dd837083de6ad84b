"""A page costs the same in a list of 200,000 jobs as in one of 100, and a filter has a bound."""

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
TIMES = 60
# What is noise on a busy machine; a list that is read from its beginning is off by a thousand.
MOST_RATIO = 2.0


@dataclass(frozen=True)
class Shelf:
    """An editor with so many jobs, in one project."""

    client: ApiClient
    project_id: str

    def get(self, path: str) -> Callable[[], requests.Response]:
        """A call that reads a page."""
        return lambda: self.client.get(path.format(project=self.project_id))


@pytest.fixture(scope="module")
def shelves(new_stack: NewStack) -> Iterator[dict[int, Shelf]]:
    with new_stack(workers=0) as stack:
        yield {number: _filled(stack, number) for number in (FEW, SOME, MANY)}


def _filled(stack: Stack, number: int) -> Shelf:
    user = f"has-{number}"
    return Shelf(ApiClient(stack.api_url, user), listed_jobs(stack, user, number))


def ratio(many: Callable[[], requests.Response], few: Callable[[], requests.Response]) -> float:
    """How many times longer the one call takes, in the middle of many taken in turns."""
    calls = chain.from_iterable(repeat((many, few), TIMES))
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
def test_the_first_page_costs_the_same_however_many_jobs_there_are(
    path: str, shelves: dict[int, Shelf]
) -> None:
    many, few = shelves[MANY].get(path), shelves[FEW].get(path)
    assert len(many().json()["items"]) == len(few().json()["items"])
    assert ratio(many, few) < MOST_RATIO


@pytest.mark.parametrize("path", ["/jobs?limit=50", "/projects/{project}/jobs?limit=50"])
def test_a_page_in_the_middle_costs_what_the_first_one_does(
    path: str, shelves: dict[int, Shelf]
) -> None:
    many = shelves[MANY]
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
def test_a_filter_that_matches_nothing_has_a_bound_and_says_where_to_go_on(
    path: str, shelves: dict[int, Shelf]
) -> None:
    many, some = shelves[MANY].get(path), shelves[SOME].get(path)
    first = many().json()
    assert first["items"] == []
    assert first["next_cursor"] is not None
    assert ratio(many, some) < MOST_RATIO
    # And going on ends, without an entry that was looked at twice.
    pages, cursor = 1, some().json()["next_cursor"]
    while cursor is not None:
        answer = shelves[SOME].get(f"{path}&cursor={cursor}")().json()
        assert answer["items"] == []
        pages, cursor = pages + 1, answer["next_cursor"]
    assert pages <= 3
