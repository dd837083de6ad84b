"""The application factory."""

import sys
import time
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

import structlog
from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter

import metrics
import tracing
from api import callbacks, health, jobs, projects
from api.call import Call, this_call
from api.cli import register_cli
from api.context import make_services
from api.docs import register_docs
from api.errors import register_error_handlers
from api.http import Api, discard_body
from api.monitoring import register_metrics
from api.security import secure
from logs import configure_logging, hashed
from runtime import utc_now
from settings import Settings, SettingsError, load_settings

log = structlog.get_logger("api")

_FIRST_ERROR = HTTPStatus.BAD_REQUEST.value
_QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})


class _NoSessions(SessionInterface):
    """Nobody has a session here: callers bring a token."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> SessionMixin:  # noqa: ARG002
        """The one that cannot be written to."""
        return self._none


class Application(Flask):
    """Flask, spared of what no route here has: coroutines, sessions, addresses that depend on the Host.

    What it does for each request is done here as there, but for functions for one request only
    (`after_this_request`) and preprocessors of path parameters; and it asks the request itself, not the
    proxy for it. Together that was a sixth of what a read costs in this process.
    """

    request_class = Call
    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Every view, hook and handler here is an ordinary function."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match by the path alone; nothing here makes an address, so that none needs the Host."""
        if request is None:
            return None
        return self.url_map.bind("", path_info=request.path, default_method=request.method)

    def preprocess_request(self) -> Any:
        """Call what comes before a view, the application's first; the first answer is the answer."""
        for name in (None, *reversed(this_call().blueprints)):
            for before in self.before_request_funcs.get(name, ()):
                answer = before()
                if answer is not None:
                    return answer
        return None

    def dispatch_request(self) -> Any:
        """Call the view, or raise why there is none."""
        call = this_call()
        if call.routing_exception is not None or call.url_rule is None:
            self.raise_routing_exception(call)
        return self.view_functions[call.url_rule.endpoint](**(call.view_args or {}))

    def process_response(self, response: Response) -> Response:
        """Call what comes after a view, the last one first and the application's last."""
        for name in (*this_call().blueprints, None):
            for after in reversed(self.after_request_funcs.get(name, ())):
                response = after(response)
        return response


def create_app(settings: Settings | None = None, now: Callable[[], datetime] = utc_now) -> Flask:
    """Make the WSGI application. Connects to nothing; exits if the settings are incomplete or unsafe."""
    settings = settings or _load_or_exit()
    configure_logging(settings)
    app = Application("takeone", static_folder=None)
    # `//` is another path, and unknown: merging would answer with a redirect in HTML.
    app.url_map.merge_slashes = False
    app.config.update(_flask_config(settings))
    app.extensions["takeone"] = make_services(settings, now)
    tracing.start(settings, "web")
    tracing.trace_requests(app)
    app.after_request(_finish)
    secure(app, settings)
    _register_routes(app)
    register_error_handlers(app)
    register_cli(app)
    return app


def _load_or_exit() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        sys.exit(f"takeone refuses to start:\n{error}")


def _flask_config(settings: Settings) -> dict[str, Any]:
    return {
        "API_TITLE": "Take One",
        "API_VERSION": "1.0.0",
        "OPENAPI_VERSION": "3.1.0",
        "MAX_CONTENT_LENGTH": settings.max_body_bytes,
        "PROPAGATE_EXCEPTIONS": False,
        # Nothing answers outside the contract; CORS preflights are answered where CORS is set up.
        "PROVIDE_AUTOMATIC_OPTIONS": False,
    }


def _register_routes(app: Flask) -> None:
    api = Api(app, spec_kwargs={"security": [{"bearerAuth": []}]})
    for module in (projects, jobs, callbacks, health):
        api.register_blueprint(module.blueprint)
    register_docs(app, api)
    register_metrics(app, app.extensions["takeone"])


def _finish(response: Response) -> Response:
    call, status = this_call(), response.status_code
    response.headers.add("X-Request-Id", call.identity)
    if status >= _FIRST_ERROR:
        discard_body()
    # A method that no route has is the caller's invention, like the path.
    rule, method = (call.url_rule.rule, call.method) if call.url_rule else ("unmatched", "any")
    seconds = time.perf_counter() - call.started
    metrics.http_requests[rule, method, str(status)].inc()
    metrics.http_request_seconds[rule, method].observe(seconds)
    if rule not in _QUIET_ROUTES:
        log.info(
            "request",
            method=method,
            route=rule,
            status=status,
            milliseconds=round(seconds * 1000, 2),
            request=hashed(call.identity),
            user=call.principal.pseudonym if call.principal else None,
            **call.said,
        )
    return response
