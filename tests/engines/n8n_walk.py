"""Executes a workflow of n8n from its JSON, without n8n: the subset that examples/n8n uses.

Node evaluates the expressions, with the variables of n8n that the examples use. A node that fails after all
its tries ends the walk, as n8n's *Stop Workflow* does. There are no pauses between tries.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
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
    """A node of the workflow failed after all its tries; `node` is its name."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


def workflow(name: str) -> dict[str, Any]:
    """One of the examples."""
    loaded: dict[str, Any] = json.loads((EXAMPLES / name).read_text())
    return loaded


@dataclass
class Walk:
    """One execution of a workflow. `headers` are those that a credential adds, by its name."""

    workflow: dict[str, Any]
    headers: dict[str, dict[str, str]]
    execution_id: str = field(default_factory=lambda: str(uuid4().int % 1_000_000))
    passed: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    works: Callable[[str], None] = lambda name: None

    def run(self, first: Any) -> None:
        """Start at the trigger, whose output is `first`. Raises NodeFailed."""
        self._items: dict[str, Any] = {}
        nodes = {node["name"]: node for node in self.workflow["nodes"]}
        [name] = [
            name for name, node in nodes.items() if _kind(node) in ("webhook", "errorTrigger")
        ]
        item = first
        while name:
            self.passed.append(name)
            output, item = self._step(nodes[name], item)
            self._items[name] = item
            after = self.workflow["connections"].get(name, {"main": [[]]})["main"]
            [name] = [link["node"] for link in after[output]] or [""]

    def _step(self, node: dict[str, Any], item: Any) -> tuple[int, Any]:
        kind, parameters = _kind(node), node["parameters"]
        if kind == "switch":
            return self._value(parameters["output"], item), item
        if kind == "set":
            return 0, json.loads(self._value(parameters["jsonOutput"], item))
        if kind == "httpRequest":
            return 0, self._request(node, item)
        if kind == "noOp":
            self.works(node["name"])
        return 0, item

    def _request(self, node: dict[str, Any], item: Any) -> Any:
        problem = ""
        for _ in range(node["maxTries"] if node.get("retryOnFail") else 1):
            try:
                return self._try(node, item)
            except requests.RequestException as error:
                problem = str(error)
        raise NodeFailed(node["name"], problem)

    def _try(self, node: dict[str, Any], item: Any) -> Any:
        parameters = node["parameters"]
        query = parameters.get("queryParameters", {"parameters": []})["parameters"]
        body = self._value(parameters["jsonBody"], item) if "jsonBody" in parameters else None
        if body is not None:
            self.sent.append(json.loads(body))
        answer = requests.request(
            parameters["method"],
            self._value(parameters["url"], item),
            params={field["name"]: field["value"] for field in query},
            data=body,
            headers={
                "Content-Type": "application/json",
                **self.headers[node["credentials"]["httpHeaderAuth"]["name"]],
            },
            timeout=parameters["options"]["timeout"] / 1000,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def _value(self, expression: str, item: Any) -> Any:
        # n8n ends an expression at the first pair of braces.
        assert re.fullmatch(r"=\{\{ ((?!\}\}).)+ \}\}", expression, re.DOTALL), expression
        scope = {
            "expression": expression[4:-3],
            "json": item,
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
