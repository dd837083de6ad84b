"""The operator's console: a static page that reads everything from the API.

Loading it needs no token, as it holds no data; its calls of the API do.
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
    """The page, with the way in which callers sign in."""
    page = _page().replace("{{auth_mode}}", services().settings.auth_mode)
    policy = {"Content-Security-Policy": CONSOLE_POLICY}
    return Response(page, mimetype="text/html", headers=policy)


@blueprint.get("/console/<name>")
def get_console_file(name: str) -> Response:
    """A file of the page."""
    # Flask sets Cache-Control to no-cache: browsers keep the file, and revalidate it before each use.
    return send_from_directory(_FILES, name)


@cache
def _page() -> str:
    return (_FILES / "index.html").read_text(encoding="utf-8")
