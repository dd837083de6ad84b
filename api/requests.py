"""What comes in: bodies, queries and the Prefer header, each read strictly or refused with a clear 400.

The fields and bounds are those of `spec/api/openapi.yaml`. An unknown field is a mistake, and is named: that
is marshmallow's default.
"""

import re
from typing import Any

import marshmallow as ma
import orjson
from flask import Response, g, request
from marshmallow import fields, validate
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from domain.errors import TakeOneError
from domain.job_fsm import JobStatus
from services.operations import SETTLEMENTS
from store.indexes import View
from store.lists import PageQuery

_MOST_ARTIFACTS = 64
_SINGLE_ARTIFACTS = ("video_uri", "audio_uri", "transcript_uri", "draft_uri")
_MOST_DISCARDED = 1 << 20
_LONGEST_URI = 2048
_LONGEST_AGE = 10 * 365 * 86_400
# nginx and others give up on an answer after 60 s by default, and the caller gets their error page.
_LONGEST_WAIT_SECONDS = 55
# White space and control characters, one by one: `\s` is another set in every regex dialect.
_INVISIBLE = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


class ValidationError(TakeOneError):
    """The request is not valid; `details` say of each field what is wrong with it (400)."""

    code = "VALIDATION_ERROR"
    message = "The request is not valid."


def read_query(schema: ma.Schema) -> dict[str, Any]:
    """The query's parameters. Raises `ValidationError`, also for one that the route does not have.

    And for one that is given twice, of which one value would have to be dropped.
    """
    given = request.args.to_dict(flat=False)
    twice = {name: ["Given more than once."] for name, values in given.items() if len(values) > 1}
    if twice:
        raise ValidationError(**twice)
    return _load(schema, request.args.to_dict())


def read_json(schema: ma.Schema) -> dict[str, Any]:
    """The JSON body, of a request without a query. Raises `ValidationError`, 413 or 415."""
    refuse_query()
    if not request.is_json:
        raise UnsupportedMediaType
    try:
        body = orjson.loads(read_body())
    except orjson.JSONDecodeError:
        raise ValidationError(body=["Not valid JSON."]) from None
    return _load(schema, body)


def page_query(query: dict[str, Any]) -> PageQuery:
    """Which part of a list is asked for. Of the parameters that a route does not have, the default counts."""
    return PageQuery(
        query["limit"],
        query["cursor"],
        newest_first=query.get("order") == "desc",
        after=query.get("updated_after"),
    )


def read_optional_json(schema: ma.Schema) -> dict[str, Any]:
    """The JSON body, which may be missing. Raises as `read_json` does."""
    refuse_query()
    return read_json(schema) if _is_body_given() else _load(schema, {})


def read_idempotency_key() -> str | None:
    """The `Idempotency-Key` header, if there is one. Raises `ValidationError`."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise ValidationError(**{"Idempotency-Key": ["1 to 255 printable ASCII characters."]})
    return key


def refuse_query() -> None:
    """Raise `ValidationError` if the request has a query."""
    if request.query_string:
        read_query(_NOTHING)


def refuse_query_and_body() -> None:
    """Raise `ValidationError` if the request has a query or a body; for routes that take neither."""
    refuse_query()
    if _is_body_given():
        raise ValidationError(body=["This route takes no body."])


def read_body() -> bytes:
    """The body as it came; may be asked for again. Raises `ValidationError` or 413."""
    body = request.get_data()
    announced = request.content_length
    if announced is None and len(body) == request.max_content_length:
        # What comes in chunks is cut off at the limit without an error.
        raise RequestEntityTooLarge
    g.is_body_read = True
    if announced is not None and len(body) < announced:
        raise ValidationError(body=["The body broke off."])
    return body


def leave_no_body_unread(response: Response) -> Response:
    """Read what is left of a refused request's body, or let the connection end with the answer.

    The server closes a connection on which something is left unread, and a client that has it in its pool
    would fail with its next call. The body of a caller who is not known is not waited for.
    """
    if not _has_body() or g.get("is_body_read"):
        return response
    if not g.get("principal") or (request.content_length or 0) > _MOST_DISCARDED:
        response.headers["Connection"] = "close"
        return response
    left = _MOST_DISCARDED
    while left > 0 and (piece := request.environ["wsgi.input"].read(min(left, 65_536))):
        left -= len(piece)
    return response


def _has_body() -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _is_body_given() -> bool:
    # Some clients send an empty object with every POST.
    return _has_body() and read_body().strip() not in (b"", b"{}")


def _load(schema: ma.Schema, data: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(data)
    except ma.ValidationError as error:
        messages = dict(error.normalized_messages())  # type: ignore[no-untyped-call]
        if ma.exceptions.SCHEMA in messages:
            messages["body"] = messages.pop(ma.exceptions.SCHEMA)
        raise ValidationError(**messages) from None
    return loaded


def _pattern(regex: str, error: str) -> validate.Validator:
    # \Z and not $: in Python, $ lets a line feed at the end through.
    return validate.Regexp(regex + r"\Z", error=error)


def _text(most: int, least: int = 1, **options: Any) -> fields.String:
    return fields.String(validate=validate.Length(least, most), **options)


def _optional_text(most: int, least: int = 1) -> fields.String:
    return _text(most, least, load_default=None, allow_none=True)


def _status(**options: Any) -> fields.Enum[JobStatus]:
    return fields.Enum(JobStatus, by_value=fields.String, **options)


def _schema(base: type[ma.Schema] = ma.Schema, /, **named: fields.Field[Any]) -> ma.Schema:
    return base.from_dict(named)()


_NOTHING = _schema()
_IS_NAME = [
    validate.Length(1, 200),
    validate.Regexp(f"[{_INVISIBLE}]*[^{_INVISIBLE}]", error="Must not be blank."),
]


PROJECT_CREATE = _schema(name=fields.String(required=True, validate=_IS_NAME))
JOB_EDIT = _schema(
    name=fields.String(allow_none=True, validate=_IS_NAME),
    metadata=fields.Dict(
        keys=_text(40),
        values=_text(500, 0),
        validate=validate.Length(0, 20, error="At most 20 keys."),
    ),
)


class WholeNumber(fields.Integer):
    """Digits, as the specification's integers are written: not `+5`, `1_000` or `٣`."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(r"-?[0-9]{1,9}", str(value), re.ASCII):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class Rfc3339(fields.AwareDateTime):
    """A moment of this century, with its offset (RFC 3339)."""

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


_NO_CURSOR = "Not a cursor of ours."
_is_cursor = _pattern(r"[0-9]{16}[0-9a-f-]{36}", _NO_CURSOR)
_is_project_id = _pattern(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "Must be a UUID.")


class LongPollSchema(ma.Schema):
    wait = WholeNumber(load_default=0, validate=validate.Range(0, 60))

    @ma.post_load
    def _end_before_a_proxy_does(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {**data, "wait": min(data["wait"], _LONGEST_WAIT_SECONDS)}


_LIMIT = WholeNumber(load_default=50, validate=validate.Range(1, 200))
_PAGE: dict[str, Any] = {
    "limit": _LIMIT,
    "cursor": fields.String(load_default=None, validate=_is_cursor),
}
_JOB_PAGE = {**_PAGE, "status": _status(load_default=None)}
PAGE_QUERY, JOB_PAGE_QUERY = _schema(**_PAGE), _schema(**_JOB_PAGE)
TRAIL_QUERY = _schema(
    LongPollSchema,
    limit=_LIMIT,
    cursor=fields.String(load_default="0", validate=_pattern(r"[0-9]{1,15}", _NO_CURSOR)),
    after=fields.String(load_default=None, validate=_pattern(r"[0-9]{1,15}", _NO_CURSOR)),
)
OWN_JOBS_QUERY = _schema(
    LongPollSchema,
    **_JOB_PAGE,
    project_id=fields.String(load_default=None, validate=_is_project_id),
    order=fields.String(load_default="desc", validate=validate.OneOf(["asc", "desc"])),
    updated_after=Rfc3339(load_default=None),
)
JOB_QUERY = _schema(LongPollSchema, status_not=_status(load_default=None))
CONFIRM_UPLOAD = _schema(
    video_uri=fields.String(
        required=True,
        validate=[
            validate.Length(1, _LONGEST_URI),
            _pattern(rf"[A-Za-z][A-Za-z0-9+.\-]*:[^{_INVISIBLE}]+", "Must be a URI with a scheme."),
        ],
    )
)
RETRY = _schema(
    model_profile=_text(100, required=True), client_request_id=_text(128, required=True)
)


class ArtifactUpdates(fields.Dict):
    """Artifacts by name: URIs, or lists of them. A null says nothing and is skipped."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> dict[str, Any]:
        updates: dict[str, Any] = super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        if len(updates) > _MOST_ARTIFACTS:
            raise ma.ValidationError(f"At most {_MOST_ARTIFACTS} artifacts at a time.")
        errors = {
            key: [problem]
            for key, each in updates.items()
            if (problem := _artifact_problem(key, each))
        }
        if errors:
            raise ma.ValidationError(errors)
        return {key: each for key, each in updates.items() if each is not None}


def _artifact_problem(key: str, value: Any) -> str | None:
    if not 1 <= len(key) <= 100:
        return "A name has 1 to 100 characters."
    if value is None:
        return None
    if key == "exports" or (isinstance(value, list) and key not in _SINGLE_ARTIFACTS):
        is_valid = isinstance(value, list) and len(value) <= 64 and all(map(_is_uri, value))
        return None if is_valid else "Must be a list of at most 64 URIs."
    return None if _is_uri(value) else f"Must be a text of 1 to {_LONGEST_URI} characters."


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _LONGEST_URI


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
    artifact_updates = ArtifactUpdates(load_default=None, allow_none=True)
    failure_code = _optional_text(100, least=0)
    failure_message = _optional_text(2000, least=0)
    failed_stage = _optional_text(100, least=0)

    @ma.post_load
    def _say_the_defaults(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        actor, artifacts = data["actor_type"] or "orchestrator", data["artifact_updates"] or {}
        return {**data, "actor_type": actor, "artifact_updates": artifacts}


STATUS_CALLBACK = StatusCallbackSchema()

# It is shown on terminals too, so it has no control characters.
_NO_CONTROL = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*"
_IS_REASON = [
    validate.Length(1, 500),
    validate.Regexp(
        rf"{_NO_CONTROL}[^{_INVISIBLE}]{_NO_CONTROL}\Z", error="A line of text that is not blank."
    ),
]


def _is_true_or_false(value: Any) -> None:
    # JSON's own: marshmallow's Boolean takes `1`, `"yes"` and `"off"` too.
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
    failure_code=_optional_text(100, least=0),
    project_id=fields.String(load_default=None, allow_none=True, validate=_is_project_id),
    limit=fields.Integer(strict=True, load_default=100, validate=validate.Range(1, 100)),
    cursor=fields.String(load_default=None, allow_none=True, validate=_is_cursor),
    dry_run=fields.Raw(load_default=False, validate=_is_true_or_false),
)
JOB_VIEW_QUERY = _schema(
    **_PAGE,
    view=fields.String(required=True, validate=validate.OneOf([view.value for view in View])),
    project_id=fields.String(load_default=None, validate=_is_project_id),
    owner=_text(256, load_default=None),
    reason=_text(500, load_default=None),
    older_than=WholeNumber(load_default=0, validate=validate.Range(0, _LONGEST_AGE)),
)


def parse_prefer(header: str | None, most_seconds: float) -> tuple[float, str | None]:
    """Of run and retry: how long to wait (seconds), and the Preference-Applied header (None: none).

    Reads a Prefer header (RFC 7240). What is not understood is ignored, as its section 2 asks.
    """
    wait: float | None = None
    asynchronous = False
    for preference in (header or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            asynchronous = True
        # The first of several counts (section 2).
        if name == "wait" and wait is None and value.isascii() and value.isdigit():
            wait = min(float(value[:9]), most_seconds)
    if wait is not None:
        # Both together: wait, and answer 202 only if it takes longer than that (section 4.3).
        return wait, f"{'respond-async, ' * asynchronous}wait={wait:g}"
    return (0, "respond-async") if asynchronous else (most_seconds, None)
