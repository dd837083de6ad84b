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
from orchestrators.base import Dispatch
from store import keys
from store.codec import FORM
from store.errors import RecordUnreadable
from store.lists import PageQuery
from store.overview import overview
from tests.support.stores import NOW, POLICY, Database

UNKNOWN_FIELDS = {"seen_by": {"by": ["a later release"]}, "checked_at": "2030-01-01T00:00:00Z"}


def read_fields(database: Database, name: str) -> dict[str, Any]:
    raw = database.redis.get(name)
    assert raw
    return dict(json.loads(raw))


def write_fields(database: Database, name: str, **fields: Any) -> None:
    """Write fields into a stored record."""
    database.redis.set(name, json.dumps({**read_fields(database, name), **fields}))


def fail(record: Record) -> Decision[None]:
    change = Change(record, NOW, POLICY)
    change.move(JobStatus.FAILED, Actor.ORCHESTRATOR)
    return change.decision(None)


def retry(database: Database, job_id: str) -> FencingToken:
    def rule(record: Record) -> Decision[Any]:
        return decide_retry(Change(record, NOW, POLICY), "again", "standard")

    database.jobs.update(job_id, rule)
    return database.record(job_id).token


def test_stored_records_state_their_form(database: Database) -> None:
    token = database.run(database.uploaded())
    assert database.begin(token)
    for name in (
        keys.job(token.job_id),
        keys.claim(token.job_id),
        keys.project(database.project.id),
    ):
        assert read_fields(database, name)["form"] == FORM


def test_unknown_fields_survive_changes_of_job_and_claim(database: Database) -> None:
    token = database.run(database.uploaded())
    write_fields(database, keys.job(token.job_id), **UNKNOWN_FIELDS)
    write_fields(database, keys.claim(token.job_id), **UNKNOWN_FIELDS)
    assert database.begin(token)
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert read_fields(database, keys.claim(token.job_id)).items() >= UNKNOWN_FIELDS.items()
    assert read_fields(database, keys.job(token.job_id)).items() >= UNKNOWN_FIELDS.items()


def test_unknown_fields_in_nested_values_survive_changes(database: Database) -> None:
    token = database.accepted()
    database.jobs.update(token.job_id, fail)
    failure = {"code": "NO_SOUND", **UNKNOWN_FIELDS}
    write_fields(database, keys.job(token.job_id), failure=failure)
    write_fields(database, keys.claim(token.job_id), **UNKNOWN_FIELDS)
    second = retry(database, token.job_id)
    retry_terms = read_fields(database, keys.claim(token.job_id))["retry"]
    write_fields(database, keys.claim(token.job_id), retry={**retry_terms, **UNKNOWN_FIELDS})
    assert database.begin(second)
    job = read_fields(database, keys.job(token.job_id))
    assert job["failure"] == failure
    assert job["earlier"][token.dispatch_id].items() >= UNKNOWN_FIELDS.items()
    assert read_fields(database, keys.claim(token.job_id))["retry"] == {
        **retry_terms,
        **UNKNOWN_FIELDS,
    }
    record = database.record(token.job_id)
    assert record.claim is not None
    dispatch = Dispatch.of(record.job, record.claim, "http://here", NOW)
    shown = str([job_shape(record), dispatch.fields])
    assert not any(field in shown for field in UNKNOWN_FIELDS), "callers or orchestrators see it"


def test_a_record_without_a_form_is_read_and_gets_one_when_it_changes(
    database: Database,
) -> None:
    token = database.run(database.uploaded())
    for name in (
        keys.job(token.job_id),
        keys.claim(token.job_id),
        keys.project(database.project.id),
    ):
        fields = read_fields(database, name)
        del fields["form"]
        database.redis.set(name, json.dumps(fields))
    assert database.begin(token)
    assert database.settle(token, ClaimEvent.ACCEPTED)
    assert read_fields(database, keys.claim(token.job_id))["form"] == FORM
    assert read_fields(database, keys.job(token.job_id))["form"] == FORM
    assert database.projects.load(database.project.id) == database.project


@pytest.mark.parametrize("form", [FORM + 1, FORM - 2, "1", [], {}])
@pytest.mark.parametrize("part", [keys.job, keys.claim])
def test_a_record_of_an_unknown_form_is_not_changed(
    part: Any, form: Any, database: Database
) -> None:
    token = database.run(database.uploaded())
    write_fields(database, part(token.job_id), form=form)
    before = database.redis.get(part(token.job_id))
    with pytest.raises(RecordUnreadable):
        database.begin(token)
    assert database.redis.get(part(token.job_id)) == before
    write_fields(database, part(token.job_id), form=FORM)
    assert database.begin(token)


@pytest.mark.parametrize(
    ("part", "field"),
    [(keys.job, "updated_at"), (keys.claim, "claimed_at"), (keys.claim, "lease_until")],
)
def test_a_time_without_a_zone_makes_a_record_unreadable(
    part: Any, field: str, database: Database
) -> None:
    damaged, token = database.run(database.uploaded()), database.run(database.uploaded())
    write_fields(database, part(damaged.job_id), **{field: "2026-01-01T00:00:00"})
    with pytest.raises(RecordUnreadable):
        database.jobs.load(damaged.job_id)
    assert database.begin(token)
    phases = overview(database.client, [], NOW, POLICY).phases
    assert phases[Phase.SENDING] == 1, "the others are still counted"


def test_a_project_of_a_later_form_does_not_hide_others(database: Database) -> None:
    write_fields(database, keys.project(database.project.id), form=FORM + 1)
    with pytest.raises(RecordUnreadable) as refused:
        database.projects.load(database.project.id)
    assert refused.value.record_id == database.project.id
    other = database.project.model_copy(update={"id": "another"})
    assert database.projects.create(other)
    assert database.projects.of_user("alice", PageQuery(10)).items == [other]


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
    later: Any, database: Database
) -> None:
    job_id = database.uploaded()
    database.redis.rpush(keys.trail(job_id), json.dumps(later))
    database.run(job_id)
    events, end, length = database.jobs.trail(job_id, 0, 10)
    kinds = [EventType.JOB_CREATED, EventType.UPLOAD_CONFIRMED, EventType.CLAIMED]
    assert [event.event_type for event in events] == kinds
    assert end == length == database.redis.llen(keys.trail(job_id)) == 4


def test_fields_that_a_later_release_adds_to_an_event_are_ignored(database: Database) -> None:
    job_id = database.uploaded()
    line = ["job.status_changed", "system", "UPLOADED", "UPLOADED", 1, 1, *[None] * 5, "added"]
    database.redis.rpush(keys.trail(job_id), json.dumps(line))
    assert len(database.jobs.trail(job_id, 0, 10)[0]) == 3
