"""What every answer carries for browsers, which hosts are answered, and whose pages may call."""

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import SecurityError

from api.requests import ValidationError
from settings import Settings, split_list

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
# Swagger UI sets styles on its elements, and its icons are data: URLs; its scripts are files of ours.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# The console's files are all our own, and none sets a style or makes an address.
CONSOLE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
# A health check calls by whatever address it has, and learns nothing about any user.
_ANY_HOST = frozenset({"/healthz", "/readyz", "/metrics"})

_NOT_FOR_PAGES = "/api/v1/internal/"
_CORS = {
    "Access-Control-Expose-Headers": "Location, Retry-After, Preference-Applied, Idempotent-Replayed, "
    "X-Request-Id",
    "Vary": "Origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Prefer, X-Request-Id",
    "Access-Control-Max-Age": "600",
}


def secure(app: Flask, settings: Settings) -> None:
    """Let `app` check hosts, answer preflights and send the headers, as the settings say."""
    app.after_request(_add_headers)
    if settings.allowed_hosts:
        app.before_request(_host_check(settings))
    origins = frozenset(split_list(settings.cors_origins))
    if origins:
        _allow_origins(app, origins)


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _host_check(settings: Settings) -> Callable[[], None]:
    """Make the check of whether a Host is one of ours.

    Without a list every one is: no address is ever made of a Host, and no cookie is asked for, so that a
    name which leads here by a trick (DNS rebinding) opens nothing.
    """
    named = frozenset(name.lower() for name in split_list(settings.allowed_hosts))
    allowed = named | {urlsplit(settings.public_url).hostname}

    def check_host() -> None:
        if request.path not in _ANY_HOST and _requested_name() not in allowed:
            raise ValidationError(Host=["Not a host of this service (TAKEONE_ALLOWED_HOSTS)."])

    return check_host


def _requested_name() -> str:
    try:
        return _name_of(request.host)
    except SecurityError:  # a Host that no name could be
        return ""


@lru_cache(maxsize=256)  # almost every request names the same few
def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _allow_origins(app: Flask, origins: frozenset[str]) -> None:
    @app.before_request
    def answer_preflight() -> Response | None:
        return Response(status=204, headers=_PREFLIGHT) if _is_preflight() else None

    @app.after_request
    def add_headers(response: Response) -> Response:
        if not request.path.startswith(_NOT_FOR_PAGES):
            _allow_origin(response, origins)
        return response


def _is_preflight() -> bool:
    return (
        request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
        and not request.path.startswith(_NOT_FOR_PAGES)
    )


def _allow_origin(response: Response, origins: frozenset[str]) -> None:
    response.headers.update(_CORS)
    origin = request.headers.get("Origin")
    if origin in origins:
        response.headers["Access-Control-Allow-Origin"] = origin
