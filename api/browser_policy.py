"""Security headers for browsers, the check of the Host header, and CORS."""

from urllib.parse import urlsplit

from flask import Flask, Response, request

from api.requests import ValidationError
from observability.tracing import QUIET_ROUTES
from settings import Settings
from settings.types import split_list

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
# Swagger UI sets inline styles, and its icons are data: URLs.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
CONSOLE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)

_WITHOUT_CORS = "/api/v1/internal/"
_CORS = {
    "Access-Control-Expose-Headers": "Location, Retry-After, Preference-Applied, Idempotent-Replayed, "
    "X-Request-Id",
    "Vary": "Origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Prefer, traceparent, "
    "X-Request-Id",
    "Access-Control-Max-Age": "600",
}


def secure(app: Flask, settings: Settings) -> None:
    """Have `app` check hosts, answer preflights and send the headers, as the settings say."""
    app.after_request(_add_headers)
    if settings.allowed_hosts:
        _check_hosts(app, settings)
    if settings.cors_origins:
        _allow_origins(app, frozenset(settings.cors_origins))


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def _check_hosts(app: Flask, settings: Settings) -> None:
    """Refuse a Host that is not listed.

    Without a list every Host is allowed. That is safe: no URL is made from it and there are no cookies, so DNS
    rebinding gains nothing.
    """
    listed = frozenset(name.lower() for name in split_list(settings.allowed_hosts))
    allowed = listed | {urlsplit(settings.public_url).hostname}

    @app.before_request
    def check_host() -> None:
        # Health checks use the process's address, and show nothing about users.
        if request.path not in QUIET_ROUTES and _requested_host() not in allowed:
            raise ValidationError(Host=["Not a host of this service (TAKEONE_ALLOWED_HOSTS)."])


def _requested_host() -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:  # not a host name
        return ""


def _allow_origins(app: Flask, origins: frozenset[str]) -> None:
    @app.before_request
    def answer_preflight() -> Response | None:
        is_preflight = (
            request.method == "OPTIONS"
            and "Origin" in request.headers
            and "Access-Control-Request-Method" in request.headers
            and not request.path.startswith(_WITHOUT_CORS)
        )
        return Response(status=204, headers=_PREFLIGHT) if is_preflight else None

    @app.after_request
    def allow_origin(response: Response) -> Response:
        if not request.path.startswith(_WITHOUT_CORS):
            response.headers.update(_CORS)
            origin = request.headers.get("Origin")
            if origin in origins:
                response.headers["Access-Control-Allow-Origin"] = origin
        return response
