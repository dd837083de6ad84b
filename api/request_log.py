"""One log line and two metrics per request, and the request's id: the caller's X-Request-Id or a new one.

Routes add to the line with `bind_contextvars`: only ids that the service has made, never a caller's text.
"""

import re
import time
from uuid import uuid4

import structlog
from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars

from observability.logs import hashed
from observability.metrics import http_request_seconds, http_requests
from observability.tracing import QUIET_ROUTES

log = structlog.get_logger("api")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}\Z")


def log_requests(app: Flask) -> None:
    """Log and count the requests of `app`. Call this before registering any other hook."""
    app.before_request(_begin)
    app.after_request(_end)


def request_id() -> str:
    """This request's id as the caller knows it; logs have its hash."""
    return str(g.request_id)


def _begin() -> None:
    g.started = time.perf_counter()
    offered = request.headers.get("X-Request-Id", "")
    g.request_id = offered if _REQUEST_ID.match(offered) else str(uuid4())
    clear_contextvars()
    bind_contextvars(request=hashed(g.request_id))


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    # Without a route, path and method are a caller's text.
    rule, method = (
        (request.url_rule.rule, request.method) if request.url_rule else ("unmatched", "any")
    )
    seconds = time.perf_counter() - g.started
    http_requests.labels(rule, method, str(response.status_code)).inc()
    http_request_seconds.labels(rule, method).observe(seconds)
    if rule not in QUIET_ROUTES:
        caller = g.get("principal")
        log.info(
            "request",
            method=method,
            route=rule,
            status=response.status_code,
            milliseconds=round(seconds * 1000, 2),
            user=hashed(caller.user) if caller else None,
        )
    return response
