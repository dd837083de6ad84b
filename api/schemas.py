"""The schemas of bodies and queries, with the fields and limits of `spec/api/openapi.yaml`.

marshmallow refuses unknown fields by default.
"""

import re
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from domain.job_fsm import JobStatus
from services.operations import SETTLEMENTS
from store.indexes import View

_MAX_URI = 2048
_MAX_AGE_SECONDS = 10 * 365 * 86_400
# nginx and others time out after 60 s by default, and the client would get their error page.
_MAX_WAIT_SECONDS = 55
# White space and control characters, listed: `\s` means different sets in different regex dialects.
_INVISIBLE = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


def _pattern(regex: str, error: str) -> validate.Validator:
    # \Z and not $: in Python, $ also matches before a final line feed.
    return validate.Regexp(regex + r"\Z", error=error)


def _text(longest: int, shortest: int = 1, **options: Any) -> fields.String:
    return fields.String(validate=validate.Length(shortest, longest), **options)


def _optional_text(longest: int, shortest: int = 1) -> fields.String:
    return _text(longest, shortest, load_default=None, allow_none=True)


def _status(**options: Any) -> fields.Enum[JobStatus]:
    return fields.Enum(JobStatus, by_value=fields.String, **options)


def _schema(base: type[ma.Schema] = ma.Schema, /, **named: fields.Field[Any]) -> ma.Schema:
    return base.from_dict(named)()


class WholeNumber(fields.Integer):
    """Decimal digits, as in the specification: not `+5`, `1_000` or `٣`."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,9}", str(value), re.ASCII):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Rfc3339(fields.AwareDateTime):
    """A moment of this century with its offset. `fromisoformat` takes more forms than RFC 3339."""

    _FORM = re.compile(
        r"20[0-9]{2}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
        r"([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
    )

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or not self._FORM.match(value):
            raise ma.ValidationError(
                "Must be an RFC 3339 date-time of this century with an offset."
            )
        return super()._deserialize(value.upper(), attr, data, **kwargs)


class LongPollSchema(ma.Schema):
    wait = WholeNumber(load_default=0, validate=validate.Range(0, 60))

    @ma.post_load
    def _cap_wait(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**data, "wait": min(data["wait"], _MAX_WAIT_SECONDS)}


_NO_CURSOR = "Not a cursor of ours."
_IS_CURSOR = _pattern(r"[0-9]{16}[0-9a-f-]{36}", _NO_CURSOR)
_IS_TRAIL_CURSOR = _pattern(r"[0-9]{1,15}", _NO_CURSOR)
_IS_PROJECT_ID = _pattern(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "Must be a UUID.")
_IS_NAME = [
    validate.Length(1, 200),
    validate.Regexp(f"[{_INVISIBLE}]*[^{_INVISIBLE}]", error="Must not be blank."),
]
# Reasons are shown on terminals, so they have no control characters. The look-ahead finds what is visible in
# linear time; a pattern that backtracks would hold up all threads of the process.
_IS_REASON = [
    validate.Length(1, 500),
    _pattern(
        rf"(?=[{_INVISIBLE}]*[^{_INVISIBLE}])[^\x00-\x1f\x7f-\x9f\u2028\u2029]*",
        "A line of text that is not blank.",
    ),
]
_IS_URI = [
    validate.Length(1, _MAX_URI),
    _pattern(rf"[A-Za-z][A-Za-z0-9+.\-]*:[^{_INVISIBLE}]+", "Must be a URI with a scheme."),
]

_LIMIT = WholeNumber(load_default=50, validate=validate.Range(1, 200))
_PAGE: dict[str, Any] = {
    "limit": _LIMIT,
    "cursor": fields.String(load_default=None, validate=_IS_CURSOR),
}
_JOB_PAGE = {**_PAGE, "status": _status(load_default=None)}
PAGE_QUERY, JOB_PAGE_QUERY = _schema(**_PAGE), _schema(**_JOB_PAGE)
JOB_QUERY = _schema(LongPollSchema, status_not=_status(load_default=None))
OWN_JOBS_QUERY = _schema(
    LongPollSchema,
    **_JOB_PAGE,
    project_id=fields.String(load_default=None, validate=_IS_PROJECT_ID),
    order=fields.String(load_default="desc", validate=validate.OneOf(["asc", "desc"])),
    updated_after=Rfc3339(load_default=None),
)
TRAIL_QUERY = _schema(
    LongPollSchema,
    limit=_LIMIT,
    cursor=fields.String(load_default="0", validate=_IS_TRAIL_CURSOR),
    after=fields.String(load_default=None, validate=_IS_TRAIL_CURSOR),
)
JOB_VIEW_QUERY = _schema(
    **_PAGE,
    view=fields.String(required=True, validate=validate.OneOf([view.value for view in View])),
    project_id=fields.String(load_default=None, validate=_IS_PROJECT_ID),
    owner=_text(256, load_default=None),
    reason=_text(500, load_default=None),
    older_than=WholeNumber(load_default=0, validate=validate.Range(0, _MAX_AGE_SECONDS)),
)

PROJECT_CREATE = _schema(name=fields.String(required=True, validate=_IS_NAME))
JOB_EDIT = _schema(
    name=fields.String(allow_none=True, validate=_IS_NAME),
    metadata=fields.Dict(
        keys=_text(40),
        values=_text(500, 0),
        validate=validate.Length(0, 20, error="At most 20 keys."),
    ),
)
CONFIRM_UPLOAD = _schema(video_uri=fields.String(required=True, validate=_IS_URI))
RETRY = _schema(
    model_profile=_text(100, required=True), client_request_id=_text(128, required=True)
)


def _is_true_or_false(value: Any) -> None:
    # marshmallow's Boolean also takes `1`, `"yes"` and `"off"`.
    if not isinstance(value, bool):
        raise ma.ValidationError("Must be true or false.")


ACT = _schema(reason=fields.String(required=True, validate=_IS_REASON))
_OPTIONAL_REASON = fields.String(load_default=None, allow_none=True, validate=_IS_REASON)
OPTIONAL_ACT = _schema(reason=_OPTIONAL_REASON)
SETTLE = _schema(
    reason=fields.String(required=True, validate=_IS_REASON),
    settlement=fields.String(data_key="as", required=True, validate=validate.OneOf(SETTLEMENTS)),
)
RETRIES = _schema(
    reason=_OPTIONAL_REASON,
    failed_since=Rfc3339(required=True),
    model_profile=_text(100, required=True),
    failure_code=_optional_text(100, shortest=0),
    project_id=fields.String(load_default=None, allow_none=True, validate=_IS_PROJECT_ID),
    limit=fields.Integer(strict=True, load_default=100, validate=validate.Range(1, 100)),
    cursor=fields.String(load_default=None, allow_none=True, validate=_IS_CURSOR),
    dry_run=fields.Raw(load_default=False, validate=_is_true_or_false),
)


class StatusCallbackSchema(ma.Schema):
    event_id = _text(128, required=True)
    status = _status(required=True)
    occurred_at = Rfc3339(required=True)
    correlation_id = _text(128, required=True)
    execution_id = _optional_text(128)
    dispatch_id = _optional_text(128)
    actor_type = fields.String(
        load_default=None, allow_none=True, validate=validate.OneOf(["orchestrator", "system"])
    )
    artifact_updates = fields.Dict(load_default=None, allow_none=True)
    failure_code = _optional_text(100, shortest=0)
    failure_message = _optional_text(2000, shortest=0)
    failed_stage = _optional_text(100, shortest=0)

    @ma.validates("artifact_updates")
    def _check_artifacts(self, updates: dict[str, Any] | None, **_: Any) -> None:
        if updates and len(updates) > 64:
            raise ma.ValidationError("At most 64 artifacts at a time.")
        problems = {
            name: [problem]
            for name, value in (updates or {}).items()
            if (problem := _artifact_problem(name, value))
        }
        if problems:
            raise ma.ValidationError(problems)

    @ma.post_load
    def _set_defaults(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        updates = data["artifact_updates"] or {}
        return {
            **data,
            "actor_type": data["actor_type"] or "orchestrator",
            # A null changes nothing.
            "artifact_updates": {name: uri for name, uri in updates.items() if uri is not None},
        }


STATUS_CALLBACK = StatusCallbackSchema()


def _artifact_problem(name: str, value: Any) -> str | None:
    if not 1 <= len(name) <= 100:
        return "A name has 1 to 100 characters."
    if value is None:
        return None
    is_single = name in ("video_uri", "audio_uri", "transcript_uri", "draft_uri")
    if name == "exports" or (isinstance(value, list) and not is_single):
        is_valid = isinstance(value, list) and len(value) <= 64 and all(map(_is_artifact, value))
        return None if is_valid else "Must be a list of at most 64 URIs."
    return None if _is_artifact(value) else f"Must be a text of 1 to {_MAX_URI} characters."


def _is_artifact(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _MAX_URI
