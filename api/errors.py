"""One shape for everything that is not a success: `{code, message}` and, where named, `details`."""

from typing import Any

import orjson
import structlog
from flask import Flask, Response
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, UnprocessableEntity

from domain import errors
from store.errors import StoreError

log = structlog.get_logger("api")

_STATUS = {
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.ResourceNotFound: 404,
    errors.RateLimited: 429,
    errors.OrchestratorDispatchFailed: 502,
    errors.ServiceUnavailable: 503,
}
_CONFLICT = 409
_CODES = {
    400: ("VALIDATION_ERROR", "The request is not valid."),
    404: ("RESOURCE_NOT_FOUND", errors.ResourceNotFound.message),
    405: ("METHOD_NOT_ALLOWED", "This route does not have that method."),
    413: ("VALIDATION_ERROR", "The request is too large."),
    415: ("VALIDATION_ERROR", "The body must be JSON (Content-Type: application/json)."),
}
INTERNAL = ("INTERNAL_ERROR", "Something went wrong on our side.")


def describe(status: int) -> tuple[str, str]:
    """The code and the message of a client error that has no class of its own."""
    return _CODES.get(status, _CODES[400])


class JsonResponse(Response):
    """A whole body and complete headers: Werkzeug would copy the headers to see what is missing."""

    def get_wsgi_headers(self, environ: Any) -> Headers:  # noqa: ARG002
        """The headers as they are."""
        return self.headers


def encode(body: Any) -> bytes:
    """JSON as the contract wants it: UTF-8, times in RFC 3339 with a Z."""
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer, not to be read or changed again; `headers` are ASCII."""
    # Werkzeug itself sets Content-Length here, and passes the body on as it is.
    response = JsonResponse(
        encode(body), status, content_type="application/json", direct_passthrough=True
    )
    for name, value in (headers or {}).items():
        response.headers.add(name, value)
    return response


def error_response(
    status: int, code: str, message: str, details: dict[str, Any] | None = None
) -> Response:
    """An error in the contract's shape."""
    body: dict[str, Any] = {"code": code, "message": message}
    if details:
        body["details"] = details
    return json_response(body, status)


def register_error_handlers(app: Flask) -> None:
    """Let nothing answer in any other shape."""
    app.register_error_handler(errors.TakeOneError, _refusal)
    app.register_error_handler(StoreError, _store_failed)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _crash)


def _refusal(error: errors.TakeOneError) -> Response:
    status = _STATUS.get(type(error), _CONFLICT)
    response = error_response(status, error.code, error.message, error.details)
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="takeone"'
    return response


def _store_failed(error: StoreError) -> Response:
    log.warning("store.failed", error=type(error).__name__, why=str(error.__class__.__doc__)[:40])
    return _refusal(errors.ServiceUnavailable())


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    details = None
    if isinstance(error, UnprocessableEntity) or status == 400:
        status, details = 400, _validation_details(error)
    if status in (413, 415):
        details = {"body": [_CODES[status][1]]}
    if 400 <= status < 500:
        response = error_response(status, *describe(status), details)
    else:
        response = error_response(status, *INTERNAL)
    _keep_allow(error, response)
    return response


def _keep_allow(error: HTTPException, response: Response) -> None:
    valid_methods = getattr(error, "valid_methods", None)
    if valid_methods:
        response.headers["Allow"] = ", ".join(sorted(valid_methods))


def _validation_details(error: HTTPException) -> dict[str, Any]:
    messages = (getattr(error, "data", None) or {}).get("messages") or {}
    fields: dict[str, Any] = {}
    for place in messages.values():
        fields |= place if isinstance(place, dict) else {"body": place}
    # marshmallow's name for what is wrong with the object as a whole
    if "_schema" in fields:
        fields["body"] = fields.pop("_schema")
    return fields or {"body": ["Not a valid request."]}


def _crash(error: Exception) -> Response:
    log.error("request.crashed", exc_info=error)
    return error_response(500, *INTERNAL)
