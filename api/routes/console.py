"""The operator's console: a page of our own and its files. What it shows, it asks the API for.

Anyone may load it, as it holds no data: the API asks for the token with every call.
"""

from functools import cache
from pathlib import Path

from flask import Blueprint, Response, send_from_directory

from api.context import services
from api.security import CONSOLE_POLICY

blueprint = Blueprint("console", __name__)

_FILES = Path(__file__).parents[1] / "console"


@blueprint.get("/console")
def get_console() -> Response:
    """The page, told how callers sign in."""
    page = _page().replace("{{auth_mode}}", services().settings.auth_mode)
    policy = {"Content-Security-Policy": CONSOLE_POLICY}
    return Response(page, mimetype="text/html", headers=policy)


@blueprint.get("/console/<name>")
def get_console_file(name: str) -> Response:
    """A file of the page."""
    # It has a Cache-Control of its own (no-cache: keep it, and ask again before using it).
    return send_from_directory(_FILES, name)


@cache
def _page() -> str:
    return (_FILES / "index.html").read_text(encoding="utf-8")
