"""The API's own description: /openapi.json, made from the code, and /docs, to read and try it.

The page shows the specification itself, with its examples for each code; a test holds the two to the same
routes, codes and shapes. Where the specification was not installed, it shows what the code says.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from flask import Flask, Response, send_from_directory

from api.errors import encode
from api.http import Api
from api.security import DOCS_POLICY

# For its files only: it is never imported. The package swagger-ui-bundle cannot show OpenAPI 3.1.
_PACKAGE = "flask_openapi3_swagger"
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
_START = 'SwaggerUIBundle({url: "%s", dom_id: "#ui", persistAuthorization: true});'
_SPECIFICATION = Path(__file__).resolve().parent.parent / "spec" / "api" / "openapi.yaml"


def register_docs(app: Flask, api: Api) -> None:
    """Serve the description. The assets come from a package, so that it works without the internet."""
    api.spec.components.security_scheme("bearerAuth", {"type": "http", "scheme": "bearer"})
    api.spec.components.security_scheme(
        "callbackSecret", {"type": "apiKey", "in": "header", "name": "X-Callback-Secret"}
    )
    api.spec.components.security_scheme(
        "webhookSignature", {"type": "apiKey", "in": "header", "name": "webhook-signature"}
    )

    @lru_cache(maxsize=1)
    def document() -> bytes:
        return encode(api.spec.to_dict())

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(document(), mimetype="application/json")

    @app.get("/docs")
    def docs() -> Response:
        policy = {"Content-Security-Policy": DOCS_POLICY}
        return Response(_PAGE, mimetype="text/html", headers=policy)

    @app.get("/docs/start.js")
    def start() -> Response:
        shown = "/docs/openapi.yaml" if _SPECIFICATION.exists() else "/openapi.json"
        return Response(_START % shown, mimetype="text/javascript")

    @app.get("/docs/openapi.yaml")
    def specification() -> Response:
        return _file(_SPECIFICATION.parent, _SPECIFICATION.name, "application/yaml")

    @app.get("/docs/<name>")
    def asset(name: str) -> Response:
        return _file(_assets(), _ASSETS.get(name, ""))


def _file(directory: Path, name: str, mimetype: str | None = None) -> Response:
    response = send_from_directory(directory, name, mimetype=mimetype)
    # May be kept and asked for again (no-cache); beside a policy of its own, nothing is put over that.
    response.headers["Content-Security-Policy"] = DOCS_POLICY
    return response


def _assets() -> Path:
    package = find_spec(_PACKAGE)
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "templates" / "swagger"
