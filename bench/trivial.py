"""A Flask view that only checks a token and does one Redis round trip.

Run by the service's own gunicorn settings, with the service's own token check and connections: what a
route of the service takes beyond it is the route's own doing.

    gunicorn --config gunicorn.conf.py bench.trivial:app
"""

import os

from flask import Flask, Response, request

from api.auth import Authenticator
from settings import load_settings
from store.connecting import connection_factory
from store.link import Link

KEY = os.environ["TRIVIAL_KEY"]

_settings = load_settings()
_authenticator = Authenticator(_settings)
_connect = connection_factory(_settings.redis_url, _settings.redis_timeout_seconds)
_link = Link(_connect, _settings.redis_connections, _settings.redis_timeout_seconds)

app = Flask(__name__)


@app.get("/healthz")
def health() -> str:
    """Say that the process is up."""
    return "ok"


@app.get("/trivial")
def trivial() -> Response:
    """Answer with what Redis holds."""
    _authenticator.principal(request.headers.get("Authorization"))
    (value,) = _link.call(("GET", KEY))
    return Response(value, mimetype="application/json")
