"""Reading requests: bodies, queries and headers. Everything invalid is refused with a 400."""

import re
from typing import Any

import marshmallow as ma
import orjson
from flask import Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from api.context import services
from domain.errors import TakeOneError
from store.lists import PageQuery

_MAX_DRAINED_BYTES = 1 << 20
_NO_FIELDS = ma.Schema()


class ValidationError(TakeOneError):
    """The request is not valid (400); `details` lists the problems of each field."""

    code = "VALIDATION_ERROR"
    message = "The request is not valid."


def read_query(schema: ma.Schema) -> dict[str, Any]:
    """The query's parameters. Raises `ValidationError`, also if one is unknown or given twice."""
    repeated = {
        name: ["Given more than once."] for name, values in request.args.lists() if len(values) > 1
    }
    if repeated:
        raise ValidationError(**repeated)
    return _load(schema, request.args.to_dict())


def read_json(schema: ma.Schema, *, optional: bool = False) -> dict[str, Any]:
    """The JSON body of a request without a query. Raises `ValidationError`, 413 or 415.

    `optional`: a missing or empty body, of any content type, counts as `{}`.
    """
    _refuse_query()
    if optional and not _has_content():
        # The server does not tell a chunked body that is empty from one that broke off.
        if _has_body() and not read_body():
            raise ValidationError(body=["The body broke off."])
        return _load(schema, {})
    if not request.is_json:
        raise UnsupportedMediaType
    try:
        body = orjson.loads(read_body())
    except orjson.JSONDecodeError:
        raise ValidationError(body=["Not valid JSON."]) from None
    return _load(schema, body)


def page_query(query: dict[str, Any]) -> PageQuery:
    """The part of a list that a query asks for. Not every route has `order` and `updated_after`."""
    return PageQuery(
        query["limit"],
        query["cursor"],
        newest_first=query.get("order") == "desc",
        after=query.get("updated_after"),
    )


def read_idempotency_key() -> str | None:
    """The `Idempotency-Key` header, if there is one. Raises `ValidationError`."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise ValidationError(**{"Idempotency-Key": ["1 to 255 printable ASCII characters."]})
    return key


def refuse_input() -> None:
    """Raise `ValidationError` if the request has a query or a body: the route takes neither."""
    _refuse_query()
    if _has_content():
        raise ValidationError(body=["This route takes no body."])


def _refuse_query() -> None:
    if request.query_string:
        read_query(_NO_FIELDS)


def read_body() -> bytes:
    """The raw body; it is kept, so this may be called again. Raises `ValidationError` or 413."""
    body = request.get_data()
    announced = request.content_length
    if announced is None and len(body) == request.max_content_length:
        # A chunked body is cut off at the limit without an error.
        raise RequestEntityTooLarge
    g.is_body_read = True
    if announced is not None and len(body) < announced:
        raise ValidationError(body=["The body broke off."])
    return body


def drain_body(response: Response) -> Response:
    """Read the rest of a refused request's body, or close the connection after the answer.

    The server closes a connection that has unread data, and a client that keeps it in a pool would fail with
    its next call. For an unauthenticated caller it does not wait for the body.
    """
    if not _has_body() or g.get("is_body_read"):
        return response
    if not g.get("principal") or (request.content_length or 0) > _MAX_DRAINED_BYTES:
        response.headers["Connection"] = "close"
        return response
    left = _MAX_DRAINED_BYTES
    while left > 0 and (piece := request.environ["wsgi.input"].read(min(left, 65_536))):
        left -= len(piece)
    return response


def check_profile(profile: str) -> None:
    """Raise `ValidationError` for a model profile that the settings do not allow."""
    allowed = services().settings.model_profiles
    if profile not in allowed:
        raise ValidationError(model_profile=[f"Must be one of: {', '.join(allowed)}."])


def _has_body() -> bool:
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _has_content() -> bool:
    # Some clients send an empty object with every POST. The body of an unknown caller is not waited for.
    return _has_body() and not (g.get("principal") and read_body().strip() in (b"", b"{}"))


def _load(schema: ma.Schema, data: Any) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(data)
    except ma.ValidationError as error:
        messages = dict(error.normalized_messages())  # type: ignore[no-untyped-call]
        if ma.exceptions.SCHEMA in messages:
            messages["body"] = messages.pop(ma.exceptions.SCHEMA)
        raise ValidationError(**messages) from None
    return loaded


def read_prefer(max_seconds: float) -> tuple[float, str | None]:
    """How long run or retry waits (seconds), and its Preference-Applied header (None: no header).

    Reads the Prefer header (RFC 7240), and ignores what it does not understand (section 2).
    """
    wait: float | None = None
    asynchronous = False
    for preference in request.headers.get("Prefer", "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async":
            asynchronous = True
        # The first of several counts (section 2).
        if name == "wait" and wait is None and value.isascii() and value.isdigit():
            wait = min(float(value[:9]), max_seconds)
    if wait is not None:
        # Both together: wait, and answer 202 only if it takes longer than that (section 4.3).
        return wait, f"{'respond-async, ' * asynchronous}wait={wait:g}"
    return (0, "respond-async") if asynchronous else (max_seconds, None)
