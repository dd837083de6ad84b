"""What every answer carries for browsers, which hosts are answered, and whose pages may call."""

from urllib.parse import urlsplit

from flask import Flask, Response, request

from api.requests import ValidationError
from observability.tracing import QUIET_ROUTES
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
        _check_hosts(app, settings)
    origins = frozenset(split_list(settings.cors_origins))
    if origins:
        _allow_origins(app, origins)


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _check_hosts(app: Flask, settings: Settings) -> None:
    """Let `app` refuse a Host that is none of ours.

    Without a list every one is: no address is ever made of a Host, and no cookie is asked for, so that a
    name which leads here by a trick (DNS rebinding) opens nothing.
    """
    named = frozenset(name.lower() for name in split_list(settings.allowed_hosts))
    allowed = named | {urlsplit(settings.public_url).hostname}

    @app.before_request
    def check_host() -> None:
        # A health check calls by whatever address it has, and learns nothing about any user.
        if request.path not in QUIET_ROUTES and _requested_name() not in allowed:
            raise ValidationError(Host=["Not a host of this service (TAKEONE_ALLOWED_HOSTS)."])


def _requested_name() -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:  # a Host that no name could be
        return ""


def _allow_origins(app: Flask, origins: frozenset[str]) -> None:
    @app.before_request
    def answer_preflight() -> Response | None:
        is_preflight = (
            request.method == "OPTIONS"
            and "Origin" in request.headers
            and "Access-Control-Request-Method" in request.headers
            and not request.path.startswith(_NOT_FOR_PAGES)
        )
        return Response(status=204, headers=_PREFLIGHT) if is_preflight else None

    @app.after_request
    def allow_origin(response: Response) -> Response:
        if not request.path.startswith(_NOT_FOR_PAGES):
            response.headers.update(_CORS)
            origin = request.headers.get("Origin")
            if origin in origins:
                response.headers["Access-Control-Allow-Origin"] = origin
        return response
