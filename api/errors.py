"""One shape for everything that is not a success: `{code, message}` and, where named, `details`."""

from typing import Any

import structlog
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from api.requests import ValidationError
from api.responses import json_response
from domain import errors
from store.errors import StoreError

log = structlog.get_logger("api")

_STATUS = {
    ValidationError: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.ResourceNotFound: 404,
    errors.RateLimited: 429,
    errors.OrchestratorDispatchFailed: 502,
    errors.ServiceUnavailable: 503,
}
_CONFLICT = 409
# Of what Flask and Werkzeug refuse by themselves.
_CODES = {
    404: (errors.ResourceNotFound.code, errors.ResourceNotFound.message),
    405: ("METHOD_NOT_ALLOWED", "This route does not have that method."),
    413: (ValidationError.code, "The request is too large."),
    415: (ValidationError.code, "The body must be JSON (Content-Type: application/json)."),
}
_BAD_REQUEST = (ValidationError.code, ValidationError.message)
_INTERNAL = ("INTERNAL_ERROR", "Something went wrong on our side.")


def _error_response(
    status: int, code: str, message: str, details: dict[str, Any] | None = None
) -> Response:
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
    status = next((each for kind, each in _STATUS.items() if isinstance(error, kind)), _CONFLICT)
    response = _error_response(status, error.code, error.message, error.details)
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="takeone"'
    return response


def _store_failed(error: StoreError) -> Response:
    log.warning("store.failed", error=type(error).__name__, reason=str(error))
    return _refusal(errors.ServiceUnavailable())


def _http_error(error: HTTPException) -> Response:
    status = error.code or 500
    if status >= 500:
        return _error_response(status, *_INTERNAL)
    code, message = _CODES.get(status, _BAD_REQUEST)
    details = {"body": [message]} if code == ValidationError.code else None
    response = _error_response(status, code, message, details)
    valid_methods = getattr(error, "valid_methods", None)
    if valid_methods:
        response.headers["Allow"] = ", ".join(sorted(valid_methods))
    return response


def _crash(error: Exception) -> Response:
    log.error("request.crashed", exc_info=error)
    return _error_response(500, *_INTERNAL)
