"""The API's own description: the specification as it is, and a page to read and try it."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, send_from_directory

from api.responses import json_response
from api.security import DOCS_POLICY

blueprint = Blueprint("docs", __name__)

# For its files only: it is never imported. The package swagger-ui-bundle cannot show OpenAPI 3.1.
_PACKAGE, _FILES = "flask-openapi3-swagger", "flask_openapi3_swagger/templates/swagger"
_ASSETS = {
    "swagger-ui.css": "css/swagger-ui.css",
    "swagger-ui-bundle.js": "js/swagger-ui-bundle.js",
    "swagger.svg": "images/swagger.svg",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Take One API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="/docs/swagger.svg">
</head><body><div id="ui"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script></body></html>"""
_START = 'SwaggerUIBundle({url: "/openapi.yaml", dom_id: "#ui", persistAuthorization: true});'
SPECIFICATION = Path(__file__).parents[2] / "spec" / "api" / "openapi.yaml"


@blueprint.get("/openapi.yaml")
def get_specification() -> Response:
    """The specification."""
    return _file(SPECIFICATION.parent, SPECIFICATION.name, "application/yaml")


@blueprint.get("/openapi.json")
def get_specification_as_json() -> Response:
    """The specification, as JSON."""
    return json_response(_specification())


@blueprint.get("/docs")
def get_docs() -> Response:
    """The page."""
    policy = {"Content-Security-Policy": DOCS_POLICY}
    return Response(_PAGE, mimetype="text/html", headers=policy)


@blueprint.get("/docs/start.js")
def get_start_script() -> Response:
    """The page's own script: the content security policy allows none within the page."""
    return Response(_START, mimetype="text/javascript")


@blueprint.get("/docs/<name>")
def get_asset(name: str) -> Response:
    """A file of the package, so that the page works without the internet."""
    return _file(_assets(), _ASSETS.get(name, ""))


@cache  # parsing takes about half a second
def _specification() -> Any:
    return yaml.safe_load(SPECIFICATION.read_bytes())


def _file(directory: Path, name: str, mimetype: str | None = None) -> Response:
    response = send_from_directory(directory, name, mimetype=mimetype)
    # It has a Cache-Control of its own (no-cache: keep it, and ask again before using it).
    response.headers["Content-Security-Policy"] = DOCS_POLICY
    return response


@cache
def _assets() -> Path:
    return Path(str(distribution(_PACKAGE).locate_file(_FILES)))
