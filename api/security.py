"""What every answer carries for browsers, which hosts are answered, and whose pages may call."""

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from flask import Flask, Response, request

from api.http import bad_request
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
# A health check calls by whatever address it has, and learns nothing of anybody.
_ANY_HOST = frozenset({"/healthz", "/readyz", "/metrics"})

_NOT_FOR_PAGES = "/api/v1/internal/"
_CORS = {
    "Access-Control-Expose-Headers": "Location, Retry-After, Preference-Applied, X-Request-Id",
    "Vary": "Origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Prefer, X-Request-Id",
    "Access-Control-Max-Age": "600",
}


def secure(app: Flask, settings: Settings) -> None:
    """Let `app` check hosts, answer preflights and send the headers, as the settings say."""
    check_host = _host_check(settings)
    origins = frozenset(split_list(settings.cors_origins))

    @app.before_request
    def guard() -> Response | None:
        if request.path not in _ANY_HOST and not check_host(request.host):
            raise bad_request("Host", "Not a host of this service (TAKEONE_ALLOWED_HOSTS).")
        return _preflight_answer() if _is_preflight(origins) else None

    @app.after_request
    def add_headers(response: Response) -> Response:
        headers = response.headers
        if "Content-Security-Policy" in headers:
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        else:
            headers.extend(HEADERS)
        if origins and not request.path.startswith(_NOT_FOR_PAGES):
            _allow_origin(response, origins)
        return response


def _host_check(settings: Settings) -> Callable[[str], bool]:
    """Make the check of whether a Host is one of ours.

    Without a list every one is: no address is ever made of a Host, and no cookie is asked for, so that a
    name which leads here by a trick (DNS rebinding) opens nothing.
    """
    named = frozenset(name.lower() for name in split_list(settings.allowed_hosts))
    allowed = named | {urlsplit(settings.public_url).hostname}

    @lru_cache(maxsize=256)  # almost every request names the same few
    def is_ours(host: str) -> bool:
        return not named or _name_of(host) in allowed

    return is_ours


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_preflight(origins: frozenset[str]) -> bool:
    return (
        bool(origins)
        and request.method == "OPTIONS"
        and "Origin" in request.headers
        and "Access-Control-Request-Method" in request.headers
        and not request.path.startswith(_NOT_FOR_PAGES)
    )


def _preflight_answer() -> Response:
    return Response(status=204, headers=_PREFLIGHT)


def _allow_origin(response: Response, origins: frozenset[str]) -> None:
    response.headers.update(_CORS)
    origin = request.headers.get("Origin")
    if origin in origins:
        response.headers["Access-Control-Allow-Origin"] = origin
