"""Walks through a workflow of n8n by its JSON, without n8n: enough of it for examples/n8n.

Expressions are run by Node, with those names of n8n's that the examples use. A node that fails ends the
walk, as n8n's *Stop Workflow* does, once its tries are over; the pauses between them are left out.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from devstack.processes import ROOT

EXAMPLES = ROOT / "examples" / "n8n"
NODE = shutil.which("node")
_EVALUATE = """
const { expression, json, items, execution } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const $json = json, $execution = execution;
const $now = { toUTC: () => ({ toISO: () => new Date().toISOString() }) };
const $ = (name) => ({ first: () => ({ json: items[name] }) });
console.log(JSON.stringify(eval('(' + expression + ')')));
"""


class NodeFailed(Exception):
    """A node of the workflow failed for good; `node` is its name."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


def workflow(name: str) -> dict[str, Any]:
    """One of the examples."""
    found: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return found


@dataclass
class Walk:
    """One execution of a workflow. `headers` are what each credential adds, by its name."""

    workflow: dict[str, Any]
    headers: dict[str, dict[str, str]]
    execution_id: str = field(default_factory=lambda: str(uuid4().int % 1_000_000))
    passed: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    works: Callable[[str], None] = lambda name: None

    def run(self, first: Any) -> None:
        """Start at the trigger, which brings `first`. Raises NodeFailed."""
        self._items: dict[str, Any] = {}
        nodes = {node["name"]: node for node in self.workflow["nodes"]}
        [name] = [
            name for name, node in nodes.items() if _kind(node) in ("webhook", "errorTrigger")
        ]
        given = first
        while name:
            self.passed.append(name)
            output, given = self._step(nodes[name], given)
            self._items[name] = given
            after = self.workflow["connections"].get(name, {"main": [[]]})["main"]
            [name] = [link["node"] for link in after[output]] or [""]

    def _step(self, node: dict[str, Any], given: Any) -> tuple[int, Any]:
        kind, parameters = _kind(node), node["parameters"]
        if kind == "switch":
            return self._value(parameters["output"], given), given
        if kind == "set":
            return 0, json.loads(self._value(parameters["jsonOutput"], given))
        if kind == "httpRequest":
            return 0, self._request(node, given)
        if kind == "noOp":
            self.works(node["name"])
        return 0, given

    def _request(self, node: dict[str, Any], given: Any) -> Any:
        problem = ""
        for _ in range(node["maxTries"] if node.get("retryOnFail") else 1):
            try:
                return self._try(node, given)
            except requests.RequestException as error:
                problem = str(error)
        raise NodeFailed(node["name"], problem)

    def _try(self, node: dict[str, Any], given: Any) -> Any:
        parameters = node["parameters"]
        query = parameters.get("queryParameters", {"parameters": []})["parameters"]
        body = self._value(parameters["jsonBody"], given) if "jsonBody" in parameters else None
        if body is not None:
            self.sent.append(json.loads(body))
        answered = requests.request(
            parameters["method"],
            self._value(parameters["url"], given),
            params={each["name"]: each["value"] for each in query},
            data=body,
            headers={
                "Content-Type": "application/json",
                **self.headers[node["credentials"]["httpHeaderAuth"]["name"]],
            },
            timeout=parameters["options"]["timeout"] / 1000,
        )
        answered.raise_for_status()
        return answered.json() if answered.content else {}

    def _value(self, expression: str, given: Any) -> Any:
        # n8n ends an expression at the first pair of braces.
        assert re.fullmatch(r"=\{\{ ((?!\}\}).)+ \}\}", expression, re.DOTALL), expression
        scope = {
            "expression": expression[4:-3],
            "json": given,
            "items": self._items,
            "execution": {"id": self.execution_id},
        }
        evaluated = subprocess.run(
            [str(NODE), "-e", _EVALUATE],
            input=json.dumps(scope),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return json.loads(evaluated.stdout)


def _kind(node: dict[str, Any]) -> str:
    return str(node["type"]).removeprefix("n8n-nodes-base.")


def path_of(name: str) -> Path:
    """The file of an example."""
    return EXAMPLES / name
