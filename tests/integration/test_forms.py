"""Records of other releases: their form, and fields and values that this release does not know."""

import json
from typing import Any

import pytest

from api.responses import job_shape
from domain.audit import Actor, EventType
from domain.claim import ClaimEvent, FencingToken, Phase
from domain.job_fsm import JobStatus
from domain.record import Change, Decision, Record
from domain.retry import decide_retry
from orchestrators.payload import payload
from store import keys
from store.codec import FORM
from store.errors import RecordUnreadable
from store.lists import PageQuery
from store.overview import overview
from tests.support.stores import NOW, POLICY, Shelf

UNKNOWN_FIELDS = {"seen_by": {"by": ["a later release"]}, "checked_at": "2030-01-01T00:00:00Z"}


def read_fields(shelf: Shelf, name: str) -> dict[str, Any]:
    raw = shelf.redis.get(name)
    assert raw
    return dict(json.loads(raw))


def write_fields(shelf: Shelf, name: str, **fields: Any) -> None:
    """Write fields into a stored record."""
    shelf.redis.set(name, json.dumps({**read_fields(shelf, name), **fields}))


def fail(record: Record) -> Decision[None]:
    change = Change(record, NOW, POLICY)
    change.move(JobStatus.FAILED, Actor.ORCHESTRATOR)
    return change.decision(None)


def retry(shelf: Shelf, job_id: str) -> FencingToken:
    def rule(record: Record) -> Decision[Any]:
        return decide_retry(Change(record, NOW, POLICY), "again", "standard")

    shelf.jobs.update(job_id, rule)
    return shelf.record(job_id).token


def test_stored_records_state_their_form(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    assert shelf.begin(token)
    for name in (keys.job(token.job_id), keys.claim(token.job_id), keys.project(shelf.project.id)):
        assert read_fields(shelf, name)["form"] == FORM


def test_unknown_fields_survive_changes_of_job_and_claim(shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    write_fields(shelf, keys.job(token.job_id), **UNKNOWN_FIELDS)
    write_fields(shelf, keys.claim(token.job_id), **UNKNOWN_FIELDS)
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert read_fields(shelf, keys.claim(token.job_id)).items() >= UNKNOWN_FIELDS.items()
    assert read_fields(shelf, keys.job(token.job_id)).items() >= UNKNOWN_FIELDS.items()


def test_unknown_fields_in_nested_values_survive_changes(shelf: Shelf) -> None:
    token = shelf.accepted()
    shelf.jobs.update(token.job_id, fail)
    failure = {"code": "NO_SOUND", **UNKNOWN_FIELDS}
    write_fields(shelf, keys.job(token.job_id), failure=failure)
    write_fields(shelf, keys.claim(token.job_id), **UNKNOWN_FIELDS)
    second = retry(shelf, token.job_id)
    retry_terms = read_fields(shelf, keys.claim(token.job_id))["retry"]
    write_fields(shelf, keys.claim(token.job_id), retry={**retry_terms, **UNKNOWN_FIELDS})
    assert shelf.begin(second)
    job = read_fields(shelf, keys.job(token.job_id))
    assert job["failure"] == failure
    assert job["earlier"][token.dispatch_id].items() >= UNKNOWN_FIELDS.items()
    assert read_fields(shelf, keys.claim(token.job_id))["retry"] == {
        **retry_terms,
        **UNKNOWN_FIELDS,
    }
    record = shelf.record(token.job_id)
    assert record.claim is not None
    shown = str([job_shape(record), payload(record.job, record.claim, "http://here")])
    assert not any(field in shown for field in UNKNOWN_FIELDS), "callers or orchestrators see it"


def test_a_record_without_a_form_is_read_and_gets_one_when_it_changes(
    shelf: Shelf,
) -> None:
    token = shelf.run(shelf.uploaded())
    for name in (keys.job(token.job_id), keys.claim(token.job_id), keys.project(shelf.project.id)):
        fields = read_fields(shelf, name)
        del fields["form"]
        shelf.redis.set(name, json.dumps(fields))
    assert shelf.begin(token)
    assert shelf.settle(token, ClaimEvent.ACCEPTED)
    assert read_fields(shelf, keys.claim(token.job_id))["form"] == FORM
    assert read_fields(shelf, keys.job(token.job_id))["form"] == FORM
    assert shelf.projects.load(shelf.project.id) == shelf.project


@pytest.mark.parametrize("form", [FORM + 1, FORM - 2, "1", [], {}])
@pytest.mark.parametrize("part", [keys.job, keys.claim])
def test_a_record_of_an_unknown_form_is_not_changed(part: Any, form: Any, shelf: Shelf) -> None:
    token = shelf.run(shelf.uploaded())
    write_fields(shelf, part(token.job_id), form=form)
    before = shelf.redis.get(part(token.job_id))
    with pytest.raises(RecordUnreadable):
        shelf.begin(token)
    assert shelf.redis.get(part(token.job_id)) == before
    write_fields(shelf, part(token.job_id), form=FORM)
    assert shelf.begin(token)


@pytest.mark.parametrize(
    ("part", "field"),
    [(keys.job, "updated_at"), (keys.claim, "claimed_at"), (keys.claim, "lease_until")],
)
def test_a_time_without_a_zone_makes_a_record_unreadable(
    part: Any, field: str, shelf: Shelf
) -> None:
    damaged, token = shelf.run(shelf.uploaded()), shelf.run(shelf.uploaded())
    write_fields(shelf, part(damaged.job_id), **{field: "2026-01-01T00:00:00"})
    with pytest.raises(RecordUnreadable):
        shelf.jobs.load(damaged.job_id)
    assert shelf.begin(token)
    phases = overview(shelf.client, [], NOW).phases
    assert phases[Phase.SENDING] == 1, "the others are still counted"


def test_a_project_of_a_later_form_does_not_hide_others(shelf: Shelf) -> None:
    write_fields(shelf, keys.project(shelf.project.id), form=FORM + 1)
    with pytest.raises(RecordUnreadable) as refused:
        shelf.projects.load(shelf.project.id)
    assert refused.value.record_id == shelf.project.id
    other = shelf.project.model_copy(update={"id": "another"})
    assert shelf.projects.create(other)
    assert shelf.projects.of_user("alice", PageQuery(10)).items == [other]


@pytest.mark.parametrize(
    "later",
    [
        ["dispatch.unheard_of", "system", "UPLOADED", "UPLOADED", 1, 1],
        ["dispatch.sent", "unheard_of", "UPLOADED", "UPLOADED", 1, 1],
        ["job.status_changed", "system", "UPLOADED", "UNHEARD_OF", 1, 1],
        ["dispatch.sent", "system", "UPLOADED", "UPLOADED", 1e300, 1],
        {"event_type": "dispatch.sent"},
    ],
)
def test_events_of_a_later_release_are_skipped_and_kept_in_the_trail(
    later: Any, shelf: Shelf
) -> None:
    job_id = shelf.uploaded()
    shelf.redis.rpush(keys.trail(job_id), json.dumps(later))
    shelf.run(job_id)
    events, end, length = shelf.jobs.trail(job_id, 0, 10)
    kinds = [EventType.JOB_CREATED, EventType.UPLOAD_CONFIRMED, EventType.CLAIMED]
    assert [event.event_type for event in events] == kinds
    assert end == length == shelf.redis.llen(keys.trail(job_id)) == 4


def test_fields_that_a_later_release_adds_to_an_event_are_ignored(shelf: Shelf) -> None:
    job_id = shelf.uploaded()
    line = ["job.status_changed", "system", "UPLOADED", "UPLOADED", 1, 1, *[None] * 5, "added"]
    shelf.redis.rpush(keys.trail(job_id), json.dumps(line))
    assert len(shelf.jobs.trail(job_id, 0, 10)[0]) == 3
