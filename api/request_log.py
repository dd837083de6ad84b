"""A log line, two metrics and a span per request, and its id: the caller's X-Request-Id or a new one.

Routes add to line and span with `bind_contextvars`: only ids that the service has made, never a caller's text.
"""

import re
import time
from contextlib import ExitStack
from uuid import uuid4

import structlog
from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars

from observability.logs import hashed
from observability.metrics import http_request_seconds, http_requests
from observability.tracing import QUIET_ROUTES, TRACEPARENT, note, span

log = structlog.get_logger("api")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}\Z")


def log_requests(app: Flask) -> None:
    """Log, count and trace the requests of `app`. Call this before registering any other hook."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(lambda _: g.span.close() if "span" in g else None)


def request_id() -> str:
    """This request's id as the caller knows it; logs have its hash."""
    return str(g.request_id)


def _begin() -> None:
    g.started = time.perf_counter()
    offered = request.headers.get("X-Request-Id", "")
    g.request_id = offered if _REQUEST_ID.match(offered) else str(uuid4())
    clear_contextvars()
    bind_contextvars(request=hashed(g.request_id))
    # Without a route, path and method are a caller's text.
    g.rule, g.method = (
        (request.url_rule.rule, request.method) if request.url_rule else ("unmatched", "any")
    )
    g.span = ExitStack()
    if g.rule not in QUIET_ROUTES:
        name = f"{g.method} {g.rule}" if request.url_rule else "HTTP unmatched"
        attributes = {"http.request.method": g.method, "http.route": g.rule}
        parent = request.headers.get(TRACEPARENT)
        g.span.enter_context(span(name, "SERVER", attributes, parent))


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    bound = {f"takeone.{name}": value for name, value in get_contextvars().items()}
    bound.pop("takeone.request", None)
    note({"http.response.status_code": response.status_code, **bound})
    seconds = time.perf_counter() - g.started
    http_requests.labels(g.rule, g.method, str(response.status_code)).inc()
    http_request_seconds.labels(g.rule, g.method).observe(seconds)
    if g.rule not in QUIET_ROUTES:
        caller = g.get("principal")
        log.info(
            "request",
            method=g.method,
            route=g.rule,
            status=response.status_code,
            milliseconds=round(seconds * 1000, 2),
            user=hashed(caller.user) if caller else None,
        )
    return response
