"""Writes docs/takeone.http from the specification: `python -m docs.http_file > docs/takeone.http`."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from devstack.processes import ROOT

HEAD = """# Take One's API without the operators' calls, generated from spec/api/openapi.yaml (`make docs`).
# For httpYac (VS Code, or `npx httpyac send docs/takeone.http --all`). Follows one video from top to bottom;
# its retry is answered 409, because the job has not failed.
# The secret is TAKEONE_CALLBACK_SECRET's default in development; `make up` prints its own.

@host = http://127.0.0.1:8000
@token = test:alice:editor
@callbackSecret = dev-callback-secret
"""
# The call whose answer has the id for a path parameter.
SOURCES = {"projectId": "createProject", "jobId": "createJob"}
# The order in which one video needs them; all others follow.
FIRST = (
    "createProject", "listProjects", "getProject", "createJob", "listJobs", "listOwnJobs", "getJob", "editJob",
    "confirmUpload", "runJob", "reportJobStatus", "listJobEvents", "retryJob", "cancelJob", "deleteJob",
)  # fmt: skip
CREDENTIALS = {
    "bearerAuth": "Authorization: Bearer {{token}}",
    "callbackSecret": "X-Callback-Secret: {{callbackSecret}}",
}


def http_file() -> str:
    """Return the file's text."""
    spec = yaml.safe_load((ROOT / "spec" / "api" / "openapi.yaml").read_text())
    calls = dict(sorted(_operations(spec), key=lambda each: _position(each[0])))
    return "\n".join([HEAD, *calls.values()])


def _position(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _operations(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            if "operationId" in operation and "Operations" not in operation["tags"]:
                security = operation["security"]
                yield operation["operationId"], _request(method, path, operation, security)


def _request(method: str, path: str, operation: dict[str, Any], security: list[Any]) -> str:
    name = operation["operationId"]
    sample = _sample(operation)
    lines = [f"### {operation['summary']}", f"# @name {name}"]
    target = re.sub(r"{(\w+)}", _source, path)
    lines.append(f"{method.upper()} {{{{host}}}}{target}")
    lines += [CREDENTIALS[scheme] for scheme in next(iter(security), {})]
    if sample is not None:
        lines += ["Content-Type: application/json", "", json.dumps(sample, indent=2)]
    return "\n".join([*lines, ""])


def _source(parameter: re.Match[str]) -> str:
    return f"{{{{{SOURCES[parameter[1]]}.id}}}}"


def _sample(operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    examples = content.get("examples") or {"": {"value": content["example"]}}
    sample = dict(next(iter(examples.values()))["value"])
    if "occurred_at" in sample:
        sample["occurred_at"] = "{{$datetime iso8601}}"
    return sample


if __name__ == "__main__":
    print(http_file(), end="")  # noqa: T201 - that is what it is for
