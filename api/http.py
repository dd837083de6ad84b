"""What the routes share: the JSON parser, the documented errors, the request's identity."""

import re
from collections.abc import Callable
from contextlib import suppress
from random import getrandbits
from typing import Any, TypeVar
from uuid import UUID

import flask_smorest
import orjson
from flask import g, request
from gunicorn.http.errors import ParseException
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from api.auth import Principal
from api.context import services
from api.schemas import ErrorSchema

_MOST_DISCARDED = 1 << 20
_PIECE = 1 << 16

View = TypeVar("View", bound=Callable[..., Any])

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}\Z")


def bad_request(field: str, why: str) -> BadRequest:
    """A 400 that says of one field what is wrong with it."""
    error = BadRequest()
    error.data = {"messages": {"json": {field: [why]}}}  # type: ignore[attr-defined]
    return error


class Parser(FlaskParser):
    """Reads bodies strictly: JSON by name and by content, or a clear error."""

    DEFAULT_VALIDATION_STATUS = 400

    def load_json(self, req: Any, schema: Any) -> Any:  # noqa: ARG002
        """Read the body of `req`. Raises 400, 413 or 415."""
        if not req.is_json:
            raise UnsupportedMediaType
        body = read_body(req)
        try:
            return orjson.loads(body)
        except (orjson.JSONDecodeError, OSError, ParseException):
            # The last two: the server could not make out the body's chunks, or they never came.
            raise bad_request("body", "Not valid JSON.") from None


def read_body(req: Any) -> bytes:
    """The body as it came; may be asked for again. Raises 400 or 413."""
    try:
        body: bytes = req.get_data()
    except HTTPException:
        raise
    except Exception:  # each server has exceptions of its own for a body that breaks off
        g.body_broke_off = True
        raise BadRequest from None
    if req.content_length is None and len(body) == req.max_content_length:
        # What comes in chunks is cut off at the limit, without a word.
        raise RequestEntityTooLarge
    return body


class Blueprint(flask_smorest.Blueprint):
    """A blueprint whose only errors are the contract's, and whose operations are named after its views."""

    ARGUMENTS_PARSER = Parser()

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:
        """Register a view: `get_job` is the operation `getJob`."""
        register = super().route(rule, **options)

        def name_and_register(view: View) -> View:
            first, *rest = view.__name__.split("_")
            name = first + "".join(word.capitalize() for word in rest)
            named: View = register(self.doc(operationId=name)(view))
            return named

        return name_and_register


class Api(flask_smorest.Api):
    """The OpenAPI document; errors are `api.errors`' business."""

    ERROR_SCHEMA = ErrorSchema
    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_error_handlers(self) -> None:
        return

    def _register_pagination_header(self) -> None:
        return  # our pages are in the body


def errors(blueprint: Blueprint, *codes: int) -> Callable[[View], View]:
    """Document the error codes that a route may answer with."""

    def document(view: View) -> View:
        for code in codes:
            view = blueprint.alt_response(code, schema=ErrorSchema)(view)
        return view

    return document


def discard_body() -> None:
    """Read what is left of a refused request's body, up to a bound.

    The server closes a connection on which something is left unread, and a client that has it in its pool
    would fail with its next call.
    """
    announced = request.content_length
    has_body = announced is not None or "Transfer-Encoding" in request.headers
    if not has_body or g.get("body_broke_off"):
        return
    left = _MOST_DISCARDED if (announced or 0) <= _MOST_DISCARDED else 0
    with suppress(OSError, ParseException):
        while left > 0 and (piece := request.environ["wsgi.input"].read(_PIECE)):
            left -= len(piece)


def request_id() -> str:
    """This request's id: the caller's X-Request-Id if it is a clean one, else one of ours."""
    known: str | None = g.get("request_id")
    if known is None:
        offered = request.headers.get("X-Request-Id")
        known = offered if offered and _REQUEST_ID.match(offered) else _new_request_id()
        g.request_id = known
    return known


def _new_request_id() -> str:
    # It has to be unique, not secret; uuid4() asks the kernel each time, and gives the GIL away for it.
    return str(UUID(int=getrandbits(128), version=4))


def authenticate() -> None:
    """Find out who calls, before anything else is looked at."""
    g.principal = services().authenticator.principal(request.headers.get("Authorization"))


def principal() -> Principal:
    """Who calls. Only in routes behind `authenticate`."""
    caller: Principal = g.principal
    return caller
