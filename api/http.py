"""What the routes share: the JSON parser, the documented errors, who calls."""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import flask_smorest
import orjson
from gunicorn.http.errors import ParseException
from marshmallow import Schema
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from api.auth import Principal
from api.call import this_call
from api.context import services
from api.schemas import ErrorSchema

_MOST_DISCARDED = 1 << 20
_PIECE = 1 << 16

# The specification's names in the routes, Python's in the views.
_PATH_PARAMETERS = {"jobId": "job_id", "projectId": "project_id"}

View = TypeVar("View", bound=Callable[..., Any])


def bad_request(field: str, why: str) -> BadRequest:
    """A 400 that says of one field what is wrong with it."""
    error = BadRequest()
    error.data = {"messages": {"json": {field: [why]}}}  # type: ignore[attr-defined]
    return error


class Parser(FlaskParser):
    """Reads bodies strictly: JSON by name and by content, or a clear error."""

    DEFAULT_VALIDATION_STATUS = 400

    def parse(self, argmap: Any, req: Any = None, **options: Any) -> Any:
        """Read what `argmap` describes. Most queries are empty, and all their parameters optional."""
        if options["location"] == "query" and not this_call().query_string:
            return dict(_defaults(argmap))
        return super().parse(argmap, req, **options)

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
        req.body_broke_off = True
        raise BadRequest from None
    if req.content_length is None and len(body) == req.max_content_length:
        # What comes in chunks is cut off at the limit, without a word.
        raise RequestEntityTooLarge
    return body


@lru_cache
def _defaults(schema: Any) -> dict[str, Any]:
    values: dict[str, Any] = schema.load({})
    return values


def _only_documented(decorate: Callable[[Any], Any]) -> Callable[[View], View]:
    """Take from a decorator of flask-smorest what it documents, and leave the view as it is.

    It would put a call around the view, up to eight of them in all, which lets a `Response` through as it
    is; and our views answer with nothing else.
    """

    def document(view: View) -> View:
        view._apidoc = decorate(view)._apidoc  # type: ignore[attr-defined]
        return view

    return document


class Blueprint(flask_smorest.Blueprint):
    """A blueprint whose only errors are the contract's, and whose operations are named after its views."""

    ARGUMENTS_PARSER = Parser()

    @staticmethod
    def doc(**about: Any) -> Callable[[View], View]:
        """Describe a view; see flask-smorest."""
        return _only_documented(flask_smorest.Blueprint.doc(**about))

    def arguments(self, schema: Schema, *, location: str = "json") -> Callable[[View], View]:
        """Read `schema` from a request and hand it to the view; see flask-smorest.

        Documented by flask-smorest and read by webargs, as always, without the calls around both.
        """
        document = _only_documented(super().arguments(schema, location=location))

        def read_first(view: View) -> View:
            @wraps(view)
            def view_of_arguments(**values: Any) -> Any:
                return view(self.ARGUMENTS_PARSER.parse(schema, location=location), **values)

            return document(cast(View, view_of_arguments))

        return read_first

    def response(self, *args: Any, **options: Any) -> Callable[[View], View]:
        """Describe what a view answers with; see flask-smorest."""
        return _only_documented(super().response(*args, **options))

    def alt_response(self, *args: Any, **options: Any) -> Callable[[View], View]:
        """Describe what else a view may answer with; see flask-smorest."""
        return _only_documented(super().alt_response(*args, **options))

    def route(self, rule: str, **options: Any) -> Callable[[View], View]:
        """Register a view: `get_job` is the operation `getJob`."""
        register = super().route(rule, **options)

        def name_and_register(view: View) -> View:
            first, *rest = view.__name__.split("_")
            name = first + "".join(word.capitalize() for word in rest)
            named: View = register(self.doc(operationId=name)(_by_specified_names(view)))
            return named

        return name_and_register


def _by_specified_names(view: View) -> View:
    """Let a view be called by the path parameters' names in the specification."""

    @wraps(view)
    def renamed(**values: Any) -> Any:
        return view(**{_PATH_PARAMETERS[name]: value for name, value in values.items()})

    return cast(View, renamed)


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
    call = this_call()
    announced = call.content_length
    has_body = announced is not None or "Transfer-Encoding" in call.headers
    if not has_body or call.body_broke_off:
        return
    left = _MOST_DISCARDED if (announced or 0) <= _MOST_DISCARDED else 0
    with suppress(OSError, ParseException):
        while left > 0 and (piece := call.environ["wsgi.input"].read(_PIECE)):
            left -= len(piece)


def authenticate() -> None:
    """Find out who calls, before anything else is looked at."""
    call = this_call()
    call.principal = services().authenticator.principal(call.headers.get("Authorization"))


def principal() -> Principal:
    """Who calls. Only in routes behind `authenticate`."""
    return cast(Principal, this_call().principal)
