"""The operator's console, and the API's description: as a file, and in Swagger UI to read and try it.

Loading a page needs no token, as it holds no data; its calls of the API do. Flask has browsers keep files, and
revalidate them before each use.
"""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from threading import BoundedSemaphore, Lock

import orjson
import yaml
from flask import Blueprint, Response, request, send_file, send_from_directory

from api.browser_policy import CONSOLE_POLICY, DOCS_POLICY
from api.context import services
from api.requests import ValidationError
from domain.errors import ServiceUnavailable

_API = Path(__file__).parents[1]
_SPECIFICATION = _API.parent / "spec" / "api" / "openapi.yaml"
# Only its files are used. The package swagger-ui-bundle cannot show OpenAPI 3.1.
_SWAGGER_PACKAGE = distribution("flask-openapi3-swagger")
_SWAGGER = str(_SWAGGER_PACKAGE.locate_file("flask_openapi3_swagger/templates/swagger"))
_SWAGGER_FILES = {
    "swagger-ui.css": "css/swagger-ui.css",
    "swagger-ui-bundle.js": "js/swagger-ui-bundle.js",
    "swagger.svg": "images/swagger.svg",
}

# `cache` runs for each caller until the first result is there: many at once would take all CPU for a minute.
_parsing = Lock()

# Larger answers are sent in pieces: on many connections that do not read them, they would take too much memory.
_MOST_WHOLE_BYTES = 1 << 18

blueprint = Blueprint("pages", __name__, static_folder=_API / "console", static_url_path="/console")


@blueprint.before_request
def _check_conditions() -> None:
    # If it does not match, Werkzeug sends the whole file with a 412; it does not know `*`.
    request.environ.pop("HTTP_IF_MATCH", None)
    try:
        _ = request.if_modified_since, request.if_range
    except OverflowError:  # Werkzeug does not expect it
        raise ValidationError(date=["Not a date."]) from None


@blueprint.after_request
def _send_whole(response: Response) -> Response:
    # In pieces, as Flask sends files, an answer that is not read would hold a thread.
    response.direct_passthrough = False
    if (response.content_length or 0) <= _MOST_WHOLE_BYTES:
        response.set_data(response.get_data())
    return response


@blueprint.get("/console")
def get_console() -> Response:
    """The console; it reads everything from the API."""
    return _page("console", CONSOLE_POLICY)


@blueprint.get("/docs")
def get_docs() -> Response:
    """Swagger UI."""
    return _page("docs", DOCS_POLICY)


@blueprint.get("/docs/<name>")
def get_docs_file(name: str) -> Response:
    """A file of Swagger UI, served from here so that the page works offline."""
    if name == "start.js":
        return send_from_directory(_API / "docs", name)
    response = send_from_directory(_SWAGGER, _SWAGGER_FILES.get(name, ""))
    if (response.content_length or 0) > _MOST_WHOLE_BYTES:
        if not _large_answers().acquire(blocking=False):
            raise ServiceUnavailable
        response.call_on_close(_large_answers().release)
    return response


@cache
def _large_answers() -> BoundedSemaphore:
    # Each holds a thread for as long as its client does not read it: at most a quarter of those that no waiting
    # caller can hold.
    settings = services().settings
    return BoundedSemaphore(max(1, (settings.web_threads - settings.web_wait_slots) // 4))


@blueprint.get("/openapi.yaml")
def get_specification() -> Response:
    """The specification."""
    return send_file(_SPECIFICATION, mimetype="application/yaml")


@blueprint.get("/openapi.json")
def get_specification_as_json() -> Response:
    """The specification, as JSON."""
    with _parsing:
        return Response(_specification_as_json(), mimetype="application/json")


@cache  # parsing takes about half a second
def _specification_as_json() -> bytes:
    return orjson.dumps(yaml.safe_load(_SPECIFICATION.read_bytes()))


def _page(folder: str, policy: str) -> Response:
    # The console shows the way in which callers sign in.
    page = (_API / folder / "index.html").read_text(encoding="utf-8")
    page = page.replace("{{auth_mode}}", services().settings.auth_mode)
    return Response(page, mimetype="text/html", headers={"Content-Security-Policy": policy})
