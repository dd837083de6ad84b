"""Releases side by side: what a record says of its form, and what a release does with what it does not know."""

import json
from typing import Any

import pytest

from api.responses import job_shape
from domain.audit import Actor, EventType
from domain.claim import ClaimEvent, FencingToken
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record
from domain.retry import decide_retry
from orchestrators.payload import payload
from store import keys
from store.codec import FORM
from store.errors import RecordUnreadable
from store.lists import PageQuery
from tests.support.stores import NOW, POLICY, Shelf

LATER = {"heard_of": {"by": ["a later release"]}, "weighed_at": "2030-01-01T00:00:00Z"}


def stored(shelf: Shelf, name: str) -> dict[str, Any]:
    raw = shelf.redis.get(name)
    assert raw
    return dict(json.loads(raw))


def edit(shelf: Shelf, name: str, **fields: Any) -> None:
    """Give a record fields, in place."""
    shelf.redis.set(name, json.dumps({**stored(shelf, name), **fields}))


def take_form_away(shelf: Shelf, name: str) -> None:
    """Make a record one of the form before forms were stated."""
    whole = stored(shelf, name)
    del whole["form"]
    shelf.redis.set(name, json.dumps(whole))


def fail(record: Record) -> Decision[None]:
    change = Change(record, NOW)
    change.move(JobStatus.FAILED, Actor.ORCHESTRATOR)
    return change.decision(None)


def retry(shelf: Shelf, job_id: str) -> FencingToken:
    def rule(record: Record) -> Decision[Any]:
        return decide_retry(record, "again", "standard", NOW, POLICY, None)

    shelf.jobs.update(job_id, rule)
    return shelf.record(job_id).token


def test_a_job_a_claim_and_a_project_say_which_form_they_are_in(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    for name in (keys.job(token.job_id), keys.claim(token.job_id), keys.project(shelf.project.id)):
        assert stored(shelf, name)["form"] == FORM


def test_fields_of_a_later_release_outlive_every_change_of_job_and_claim(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    edit(shelf, keys.job(token.job_id), **LATER)
    edit(shelf, keys.claim(token.job_id), **LATER)
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert stored(shelf, keys.claim(token.job_id)).items() >= LATER.items()
    assert stored(shelf, keys.job(token.job_id)).items() >= LATER.items()


def test_fields_of_a_later_release_outlive_a_change_of_what_holds_them(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    shelf.jobs.update(token.job_id, fail)
    failure = {"code": "NO_SOUND", **LATER}
    edit(shelf, keys.job(token.job_id), failure=failure)
    edit(shelf, keys.claim(token.job_id), **LATER)
    second = retry(shelf, token.job_id)
    terms = stored(shelf, keys.claim(token.job_id))["retry"]
    edit(shelf, keys.claim(token.job_id), retry={**terms, **LATER})
    assert shelf.begin(second)
    job = stored(shelf, keys.job(token.job_id))
    assert job["failure"] == failure
    assert job["earlier"][token.dispatch_id].items() >= LATER.items()
    assert stored(shelf, keys.claim(token.job_id))["retry"] == {**terms, **LATER}
    record = shelf.record(token.job_id)
    assert record.claim is not None
    told = [job_shape(record), payload(record.job, record.claim, "http://here")]
    assert not any(field in str(told) for field in LATER), "no caller and no orchestrator is told"


def test_a_record_without_a_form_is_of_the_release_before_and_gets_one_when_it_is_changed(
    shelf: Shelf,
) -> None:
    token = shelf.run(shelf.uploaded())
    for name in (keys.job(token.job_id), keys.claim(token.job_id), keys.project(shelf.project.id)):
        take_form_away(shelf, name)
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert stored(shelf, keys.claim(token.job_id))["form"] == FORM
    assert stored(shelf, keys.job(token.job_id))["form"] == FORM
    assert shelf.projects.load(shelf.project.id) == shelf.project


@pytest.mark.parametrize("form", [FORM + 1, FORM - 2, "1", [], {}])
@pytest.mark.parametrize("part", [keys.job, keys.claim])
def test_a_record_of_a_form_that_is_not_known_is_left_alone(
    part: Any, form: Any, shelf: Shelf
) -> None:
    token = shelf.run(shelf.uploaded())
    edit(shelf, part(token.job_id), form=form)
    before = shelf.redis.get(part(token.job_id))
    with pytest.raises(RecordUnreadable):
        shelf.begin(token)
    assert shelf.redis.get(part(token.job_id)) == before
    edit(shelf, part(token.job_id), form=FORM)
    assert shelf.begin(token), "the release that knows it goes on with it"


def test_a_project_of_a_later_form_is_named_and_hides_only_itself(shelf: Shelf) -> None:
    edit(shelf, keys.project(shelf.project.id), form=FORM + 1)
    with pytest.raises(RecordUnreadable) as refused:
        shelf.projects.load(shelf.project.id)
    assert refused.value.record_id == shelf.project.id
    other = shelf.project.model_copy(update={"id": "another"})
    assert shelf.projects.create(other)
    assert shelf.projects.of_user("alice", PageQuery(10)).items == [other]


@pytest.mark.parametrize(
    "later",
    [
        ["dispatch.pondered", "system", "UPLOADED", "UPLOADED", 1, 1],
        ["dispatch.sent", "gardener", "UPLOADED", "UPLOADED", 1, 1],
        ["job.status_changed", "system", "UPLOADED", "PONDERED", 1, 1],
        ["dispatch.sent", "system", "UPLOADED", "UPLOADED", 1e300, 1],
        {"event_type": "dispatch.sent"},
    ],
)
def test_events_of_a_later_release_are_passed_over_and_stay_on_the_trail(
    later: Any, shelf: Shelf
) -> None:
    job_id = shelf.uploaded()
    shelf.redis.rpush(keys.trail(job_id), json.dumps(later))
    shelf.run(job_id)
    events, end, length = shelf.jobs.trail(job_id, 0, 10)
    kinds = [EventType.JOB_CREATED, EventType.UPLOAD_CONFIRMED, EventType.CLAIMED]
    assert [event.event_type for event in events] == kinds
    assert end == length == shelf.redis.llen(keys.trail(job_id)) == 4


def test_what_a_later_release_adds_to_an_event_is_passed_over(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    line = ["job.status_changed", "system", "UPLOADED", "UPLOADED", 1, 1, *[None] * 5, "added"]
    shelf.redis.rpush(keys.trail(job_id), json.dumps(line))
    assert len(shelf.jobs.trail(job_id, 0, 10)[0]) == 3
