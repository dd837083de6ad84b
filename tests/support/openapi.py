"""Checks responses against the specification: status, headers and body."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import requests
import yaml

from devstack.processes import ROOT

Document = dict[str, Any]
METHODS = ("get", "post", "put", "patch", "delete", "options", "head", "trace")
#: The operations and statuses of all responses so far, as (method, path, status).
seen: set[tuple[str, str, str]] = set()


@cache
def document() -> Document:
    loaded: Document = yaml.safe_load((ROOT / "spec/api/openapi.yaml").read_text())
    return loaded


def resolved(part: Document) -> Document:
    """Return the part, with a `$ref` resolved."""
    while "$ref" in part:
        found: Any = document()
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def operations() -> Iterator[tuple[str, str, Document]]:
    """Yield every operation: method, path and description."""
    for path, item in document()["paths"].items():
        for method in METHODS:
            if method in item:
                yield method, path, item[method]


def check_response(response: requests.Response, **_: Any) -> None:
    """Assert that the specification describes this response; a hook for `requests.Session`."""
    check(
        response.request.method or "",
        urlsplit(response.request.url or "").path,
        response.status_code,
        response.headers,
        response.content,
    )


def check(
    method: str, path: str, status_code: int, headers: Mapping[str, str], body: bytes
) -> None:
    """Assert that the specification describes this answer; header names are case-insensitive.

    Without an operation for the request (unknown path or method), an error answer must be a plain Error.
    """
    method, status = method.lower(), str(status_code)
    given = {name.lower(): value for name, value in headers.items()}
    assert given.get("x-request-id"), "an answer without X-Request-Id"
    found = _operation(method, path)
    if found is None:
        if status_code >= 400 and method != "head":
            check_schema({"$ref": "#/components/schemas/Error"}, json.loads(body))
        return
    template, described = found
    responses = described["responses"]
    assert status in responses or status == "500", (
        f"{method} {template} answered {status}: undocumented"
    )
    if status not in responses:
        return
    seen.add((method, template, status))
    answer = resolved(responses[status])
    for name, reference in answer.get("headers", {}).items():
        header = resolved(reference)
        value = given.get(name.lower())
        assert value is not None or not header.get("required"), (
            f"{method} {template} {status}: no {name}"
        )
        if value is not None:
            check_schema(header["schema"], _header_value(header["schema"], value))
    content = answer.get("content")
    if not content:
        assert body == b"", f"{method} {template} {status} has a body"
        return
    media_type = given["content-type"].partition(";")[0]
    assert media_type in content, f"{method} {template} {status} answers with {media_type}"
    if media_type == "application/json":
        check_schema(content[media_type]["schema"], json.loads(body))


def check_against(schema: str, body: Any) -> None:
    """Assert that a body conforms to a named schema of the specification."""
    check_schema({"$ref": f"#/components/schemas/{schema}"}, body)


def check_webhook(name: str, body: Any, headers: Mapping[str, str] | None = None) -> None:
    """Assert that the specification describes this webhook request, including each of its fields.

    The schemas allow additional fields, for receivers' sake; here an undescribed field is an error.
    """
    sent = document()["webhooks"][name]["post"]
    schema = sent["requestBody"]["content"]["application/json"]["schema"]
    check_schema({**schema, "unevaluatedProperties": False}, body)
    if headers is None:
        return
    given = {name.lower(): value for name, value in headers.items()}
    for parameter in map(resolved, sent["parameters"]):
        value = given.get(parameter["name"].lower())
        assert value is not None or not parameter.get("required"), parameter["name"]
        if value is not None:
            check_schema(parameter["schema"], value)


def _header_value(schema: Document, text: str) -> Any:
    return int(text) if resolved(schema).get("type") == "integer" else text


def check_schema(schema: Document, body: Any) -> None:
    """Assert that a value conforms to a schema."""
    errors = list(_validator(json.dumps(schema, sort_keys=True)).iter_errors(body))
    assert not errors, f"not as specified: {errors[0].message} at {errors[0].instance_path}"


@cache
def _validator(schema: str) -> Any:
    # The root has the document's components, so that references resolve.
    root = {"components": document()["components"], **json.loads(schema)}
    return jsonschema_rs.Draft202012Validator(root, validate_formats=True)


def _operation(method: str, path: str) -> tuple[str, Document] | None:
    for pattern, template, item in _paths():
        if pattern.fullmatch(path) and method in item:
            return template, item[method]
    return None


@cache
def _paths() -> tuple[tuple[re.Pattern[str], str, Document], ...]:
    return tuple(
        (re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path)), path, item)
        for path, item in document()["paths"].items()
    )
