"""The API's description: the specification as a file, and Swagger UI to read and try it."""

from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import yaml
from flask import Blueprint, Response, send_from_directory

from api.security import DOCS_POLICY

blueprint = Blueprint("docs", __name__)

# Only its files are used. The package swagger-ui-bundle cannot show OpenAPI 3.1.
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
@cache  # parsing takes about half a second
def get_specification_as_json() -> Any:
    """The specification, as JSON."""
    return yaml.safe_load(SPECIFICATION.read_bytes())


@blueprint.get("/docs")
def get_docs() -> Response:
    """The page."""
    policy = {"Content-Security-Policy": DOCS_POLICY}
    return Response(_PAGE, mimetype="text/html", headers=policy)


@blueprint.get("/docs/start.js")
def get_start_script() -> Response:
    """The script of the page, in a file of its own: the content security policy allows no inline script."""
    return Response(_START, mimetype="text/javascript")


@blueprint.get("/docs/<name>")
def get_asset(name: str) -> Response:
    """A file of Swagger UI, served from here so that the page works offline."""
    return _file(_assets(), _ASSETS.get(name, ""))


def _file(directory: Path, name: str, mimetype: str | None = None) -> Response:
    response = send_from_directory(directory, name, mimetype=mimetype)
    # Flask has set Cache-Control to no-cache: browsers keep the file, and revalidate it before each use.
    response.headers["Content-Security-Policy"] = DOCS_POLICY
    return response


@cache
def _assets() -> Path:
    return Path(str(distribution(_PACKAGE).locate_file(_FILES)))
