"""Every error becomes `{code, message}`, with `details` where there are any."""

from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from api.requests import ValidationError
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
# What Flask and Werkzeug refuse themselves.
_CODES = {
    404: (errors.ResourceNotFound.code, errors.ResourceNotFound.message),
    405: ("METHOD_NOT_ALLOWED", "This route does not have that method."),
    413: (ValidationError.code, "The request is too large."),
    415: (ValidationError.code, "The body must be JSON (Content-Type: application/json)."),
}
_INTERNAL = ("INTERNAL_ERROR", "Something went wrong on our side.")


def register_error_handlers(app: Flask) -> None:
    """Give every error of `app` this shape."""
    app.register_error_handler(errors.TakeOneError, _refusal)
    app.register_error_handler(StoreError, _store_failed)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _crash)


def _refusal(error: errors.TakeOneError) -> ResponseReturnValue:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 409)
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="takeone"'
    return _body(error.code, error.message, error.details), status, headers


def _store_failed(error: StoreError) -> ResponseReturnValue:
    log.warning("store.failed", error=type(error).__name__, reason=str(error))
    return _refusal(errors.ServiceUnavailable())


def _http_error(error: HTTPException) -> ResponseReturnValue:
    status = error.code or 500
    if status >= 500:
        return _body(*_INTERNAL), status
    code, message = _CODES.get(status, (ValidationError.code, ValidationError.message))
    details = {"body": [message]} if code == ValidationError.code else {}
    valid_methods = getattr(error, "valid_methods", None)
    headers = {"Allow": ", ".join(sorted(valid_methods))} if valid_methods else {}
    return _body(code, message, details), status, headers


def _crash(error: Exception) -> ResponseReturnValue:
    log.error("request.crashed", exc_info=error)
    return _body(*_INTERNAL), 500


def _body(code: str, message: str, details: Mapping[str, Any] = {}) -> dict[str, Any]:
    return {"code": code, "message": message} | ({"details": details} if details else {})
