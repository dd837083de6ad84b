"""The dashboard and the alert rules use only metrics and labels that the code has, and all of its metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from api.routes.metrics import StoreCollector
from devstack.redis_server import RedisServer
from observability import metrics
from services.assembly import Services
from settings import Settings
from tasks.outbox import make_outbox

OPS = Path(__file__).parents[2] / "ops"
DASHBOARD = json.loads((OPS / "grafana" / "takeone.json").read_text())
RULES = yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
RULE_TESTS = yaml.safe_load((OPS / "prometheus" / "alerts.test.yml").read_text())["tests"]

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
ADDED_BY_PROMETHEUS = {"le", "instance", "job"}


NOT_METRICS = {"and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool"}


@pytest.fixture(scope="module")
def existing(redis_server: RedisServer) -> dict[str, str]:
    """The metric of every series that exists."""
    settings = Settings(env="development", redis_url=redis_server.url)
    store = StoreCollector(Services(settings, make_outbox(settings)))
    return {
        family.name + suffix: family.name
        for family in [*REGISTRY.collect(), *store.collect()]
        if family.name.startswith("takeone_")
        for suffix in SUFFIXES[family.type]
    }


def labels() -> set[str]:
    """Every label of the service's metrics."""
    own = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    return {label for metric in own for label in metric._labelnames} | {"phase", "queue"}


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and the rules."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in RULES)]


def names_in(expression: str) -> set[str]:
    """The metrics in an expression: each word that is not PromQL's own."""
    bare = re.sub(r"{[^}]*}|\[[^]]*\]|\b(by|without|on|ignoring) \([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare)) - NOT_METRICS


def series_in_rule_tests() -> list[str]:
    """The series that the rules are tested with: a name that is misspelt in both would pass unnoticed."""
    return [series["series"] for test in RULE_TESTS for series in test["input_series"]]


def labels_in(expression: str) -> set[str]:
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression)
    return {label.strip() for label in grouped.split(",") if label.strip()} | set(matched)


def test_every_metric_and_label_that_is_used_exists(existing: dict[str, str]) -> None:
    known, known_labels = existing.keys(), labels() | ADDED_BY_PROMETHEUS
    for expression in [*expressions(), *series_in_rule_tests()]:
        assert names_in(expression), expression
        assert names_in(expression) <= known, expression
        assert labels_in(expression) <= known_labels, expression


def test_every_metric_is_used(existing: dict[str, str]) -> None:
    used = {name for expression in expressions() for name in names_in(expression)}
    assert {existing[name] for name in used & existing.keys()} == set(existing.values())


def test_legends_use_only_labels_of_their_expression() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert used <= labels_in(target["expr"]) | {"instance"}, panel["title"]


def test_every_rule_has_a_severity_a_summary_and_a_description() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert balanced(rule["expr"])


def test_every_rule_fires_in_a_test_and_stays_quiet_in_another() -> None:
    checks = [check for test in RULE_TESTS for check in test["promql_expr_test"]]
    samples = [sample["labels"] for check in checks for sample in check["exp_samples"]]
    fired = {name for labels in samples for name in re.findall(r'alertname="(\w+)"', labels)}
    assert fired == {rule["alert"] for rule in RULES}
    assert any(not check["exp_samples"] for check in checks)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
@pytest.mark.parametrize("arguments", [("check", "alerts.yml"), ("test", "alerts.test.yml")])
def test_promtool_passes_the_rules(arguments: tuple[str, str]) -> None:
    command, file = arguments
    result = subprocess.run(
        ["promtool", command, "rules", file],
        cwd=OPS / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dashboard_is_valid_in_grafana() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    positions = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(positions) == len(panels)
    for panel in panels:
        assert panel["datasource"]["uid"] == "${source}"
        assert all(balanced(target["expr"]) for target in panel["targets"])


def balanced(expression: str) -> bool:
    """Whether all brackets are closed."""
    left = re.sub(r'"[^"]*"|[^()\[\]{}]', "", expression)
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", left)) != left:
        left = shorter
    return not left
