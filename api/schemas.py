"""marshmallow schemas: what comes in is checked by them, what goes out is documented by them.

The names and fields are the specification's (`spec/api/openapi.yaml`); a test compares the two.
"""

import re
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from domain.claim import DispatchKind, Phase
from domain.job_fsm import JobStatus
from domain.trail import Actor, EventType

STATUSES = [status.value for status in JobStatus]
_MOST_ARTIFACTS = 64
_LONGEST_URI = 2048

is_status = validate.OneOf(STATUSES)

# White space and control characters, one by one: `\s` is another set in every regex dialect.
_INVISIBLE = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


def _pattern(regex: str, error: str) -> validate.Validator:
    # \Z and not $: in Python, $ lets a line feed at the end through.
    return validate.Regexp(regex + r"\Z", error=error)


def _text(most: int, **options: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, most), **options)


class RequestSchema(ma.Schema):
    """A body that knows all its fields."""

    class Meta:
        """Unknown fields are mistakes, and said to be."""

        unknown = ma.RAISE


class HealthSchema(ma.Schema):
    status = fields.String(required=True, validate=validate.OneOf(["ok"]))


class ErrorSchema(ma.Schema):
    code = fields.String(required=True)
    message = fields.String(required=True)
    details = fields.Dict(keys=fields.String())


class ProjectCreateSchema(RequestSchema):
    name = fields.String(
        required=True,
        validate=[
            validate.Length(1, 200),
            validate.Regexp(f"[{_INVISIBLE}]*[^{_INVISIBLE}]", error="Must not be blank."),
        ],
    )


class ProjectSchema(ma.Schema):
    id = fields.UUID(required=True)
    name = fields.String(required=True)
    created_at = fields.DateTime(required=True)


class ProjectListSchema(ma.Schema):
    items = fields.List(fields.Nested(ProjectSchema), required=True)


class ManifestSchema(ma.Schema):
    class Meta:
        """Artifacts that we do not know are kept."""

        unknown = ma.INCLUDE

    video_uri = fields.String(required=True, allow_none=True)
    audio_uri = fields.String(required=True, allow_none=True)
    transcript_uri = fields.String(required=True, allow_none=True)
    draft_uri = fields.String(required=True, allow_none=True)
    exports = fields.List(fields.String(), required=True)


class DispatchSchema(ma.Schema):
    kind = fields.String(required=True, validate=validate.OneOf(list(DispatchKind)))
    dispatch_id = fields.String(required=True)
    phase = fields.String(required=True, validate=validate.OneOf(list(Phase)))
    claimed_at = fields.DateTime(required=True)
    sent_at = fields.DateTime(required=True, allow_none=True)
    settled_at = fields.DateTime(required=True, allow_none=True)
    reason = fields.String(required=True, allow_none=True)
    execution_id = fields.String(required=True, allow_none=True)


class FailureSchema(ma.Schema):
    code = fields.String(required=True, allow_none=True)
    message = fields.String(required=True, allow_none=True)
    stage = fields.String(required=True, allow_none=True)


class JobSchema(ma.Schema):
    id = fields.UUID(required=True)
    project_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=is_status)
    manifest = fields.Nested(ManifestSchema, required=True)
    created_at = fields.DateTime(required=True)
    updated_at = fields.DateTime(required=True)
    dispatch = fields.Nested(DispatchSchema, required=True, allow_none=True)
    failure = fields.Nested(FailureSchema, required=True, allow_none=True)


class JobPageSchema(ma.Schema):
    items = fields.List(fields.Nested(JobSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class WholeNumber(fields.Integer):
    """Digits, as the specification's integers are written: not `+5`, `1_000` or `٣`."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,9}", str(value), re.ASCII):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class PageQuerySchema(ma.Schema):
    class Meta:
        """Parameters that we do not know are other people's (tracking, caches)."""

        unknown = ma.EXCLUDE

    limit = WholeNumber(load_default=50, validate=validate.Range(1, 200))
    cursor = fields.String(
        load_default="0", validate=_pattern(r"[0-9]{1,15}", "Not a cursor of ours.")
    )


class JobPageQuerySchema(PageQuerySchema):
    status = fields.String(load_default=None, validate=is_status)


class JobQuerySchema(ma.Schema):
    class Meta:
        """Parameters that we do not know are other people's (tracking, caches)."""

        unknown = ma.EXCLUDE

    wait = WholeNumber(load_default=0, validate=validate.Range(0, 60))
    status_not = fields.String(load_default=None, validate=is_status)


class ConfirmUploadRequestSchema(RequestSchema):
    video_uri = fields.String(
        required=True,
        validate=[
            validate.Length(1, _LONGEST_URI),
            _pattern(rf"[A-Za-z][A-Za-z0-9+.\-]*:[^{_INVISIBLE}]+", "Must be a URI with a scheme."),
        ],
    )


class ConfirmUploadResponseSchema(ma.Schema):
    job = fields.Nested(JobSchema, required=True)
    replayed = fields.Boolean(required=True)


class RunJobResponseSchema(ma.Schema):
    job_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=is_status)
    dispatch_id = fields.String(required=True)
    replayed = fields.Boolean(required=True)


class RetryJobRequestSchema(RequestSchema):
    model_profile = _text(100, required=True)
    client_request_id = _text(128, required=True)


class RetryJobResponseSchema(ma.Schema):
    job_id = fields.UUID(required=True)
    status = fields.String(required=True, validate=is_status)
    resume_from_status = fields.String(required=True, validate=is_status)
    checkpoint_ref = fields.String(required=True)
    model_profile = fields.String(required=True)
    dispatch_id = fields.String(required=True)
    replayed = fields.Boolean(required=True)


class AuditEventSchema(ma.Schema):
    event_type = fields.String(required=True, validate=validate.OneOf(list(EventType)))
    job_id = fields.UUID(required=True)
    project_id = fields.UUID(required=True)
    actor_type = fields.String(required=True, validate=validate.OneOf(list(Actor)))
    prev_status = fields.String(required=True, allow_none=True, validate=is_status)
    new_status = fields.String(required=True, validate=is_status)
    occurred_at = fields.DateTime(required=True)
    recorded_at = fields.DateTime(required=True)
    correlation_id = fields.String(required=True, allow_none=True)
    dispatch_id = fields.String()
    attempt = fields.Integer()
    reason = fields.String()
    execution_id = fields.String()


class AuditTrailSchema(ma.Schema):
    items = fields.List(fields.Nested(AuditEventSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class ArtifactUpdates(fields.Dict):
    """Artifacts by name: URIs, or lists of them. A null says nothing and is passed over."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> dict[str, Any]:
        updates: dict[str, Any] = super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        if len(updates) > _MOST_ARTIFACTS:
            raise ma.ValidationError(f"At most {_MOST_ARTIFACTS} artifacts at a time.")
        wrong = {key: why for key, each in updates.items() if (why := _wrong_artifact(key, each))}
        if wrong:
            raise ma.ValidationError(wrong)
        return {key: each for key, each in updates.items() if each is not None}


def _wrong_artifact(key: Any, value: Any) -> list[str] | None:
    if not isinstance(key, str) or not 1 <= len(key) <= 100:
        return ["A name has 1 to 100 characters."]
    if value is None:
        return None
    if key == "exports" or (isinstance(value, list) and not key_is_uri(key)):
        return None if _is_uri_list(value) else ["Must be a list of at most 64 URIs."]
    return None if _is_uri(value) else [f"Must be a text of 1 to {_LONGEST_URI} characters."]


def key_is_uri(key: str) -> bool:
    """Whether the manifest keeps exactly one URI under this name."""
    return key in ("video_uri", "audio_uri", "transcript_uri", "draft_uri")


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _LONGEST_URI


def _is_uri_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(map(_is_uri, value))


class Rfc3339(fields.AwareDateTime):
    """A moment of this century with its offset: a clock gone wild would shut out all that follows."""

    _FORM = re.compile(
        r"20[0-9]{2}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
        r"([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
    )

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or not self._FORM.match(value):
            raise ma.ValidationError(
                "Must be an RFC 3339 date-time of this century with an offset."
            )
        try:
            return super()._deserialize(value.upper(), attr, data, **kwargs)
        except OverflowError:
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from None


class StatusCallbackRequestSchema(RequestSchema):
    event_id = _text(128, required=True)
    status = fields.String(required=True, validate=is_status)
    occurred_at = Rfc3339(required=True)
    correlation_id = _text(128, required=True)
    execution_id = _text(128, load_default=None, allow_none=True)
    actor_type = fields.String(
        load_default="orchestrator",
        allow_none=True,
        validate=validate.OneOf(["orchestrator", "system"]),
    )
    artifact_updates = ArtifactUpdates(load_default=dict, allow_none=True)
    failure_code = fields.String(
        load_default=None, allow_none=True, validate=validate.Length(0, 100)
    )
    failure_message = fields.String(
        load_default=None, allow_none=True, validate=validate.Length(0, 2000)
    )
    failed_stage = fields.String(
        load_default=None, allow_none=True, validate=validate.Length(0, 100)
    )


class StatusCallbackReplayResponseSchema(ma.Schema):
    job_id = fields.UUID(required=True)
    event_id = fields.String(required=True)
    replayed = fields.Boolean(required=True)
    current_status = fields.String(required=True, validate=is_status)
    latest_applied_occurred_at = fields.DateTime(required=True)
