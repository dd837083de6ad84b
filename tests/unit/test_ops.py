"""The dashboard and the alert rules ask for metrics and labels that the code has, and for all of them."""

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


@pytest.fixture(scope="module")
def existing(redis_server: RedisServer) -> dict[str, str]:
    """Every series that can be asked for, and the metric that it is of."""
    settings = Settings(env="development", redis_url=redis_server.url)
    store = StoreCollector(Services(settings, make_outbox(settings)))
    return {
        family.name + suffix: family.name
        for family in [*REGISTRY.collect(), *store.collect()]
        if family.name.startswith("takeone_")
        for suffix in SUFFIXES[family.type]
    }


def labels() -> set[str]:
    """Every label of a metric of ours."""
    ours = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    return {label for each in ours for label in each._labelnames} | {"phase", "queue"}


def expressions() -> list[str]:
    """All that the dashboard and the rules ask for."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in RULES)]


NOT_METRICS = {"and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool"}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for: each word in it that is not of PromQL itself."""
    bare = re.sub(r"{[^}]*}|\[[^]]*\]|\b(by|without|on|ignoring) \([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare)) - NOT_METRICS


def series_in_rule_tests() -> list[str]:
    """The series that the rules are tested with: a name misspelt in both would be tested in vain."""
    return [series["series"] for test in RULE_TESTS for series in test["input_series"]]


def labels_in(expression: str) -> set[str]:
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression)
    return {label.strip() for label in grouped.split(",") if label.strip()} | set(matched)


def test_all_that_is_asked_for_exists(existing: dict[str, str]) -> None:
    known, known_labels = existing.keys(), labels() | ADDED_BY_PROMETHEUS
    for expression in [*expressions(), *series_in_rule_tests()]:
        assert names_in(expression), expression
        assert names_in(expression) <= known, expression
        assert labels_in(expression) <= known_labels, expression


def test_all_that_exists_is_on_the_dashboard(existing: dict[str, str]) -> None:
    known = existing
    shown = {known[name] for each in expressions() for name in names_in(each) if name in known}
    assert shown == set(known.values())


def test_the_labels_in_legends_are_those_that_the_expression_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert named <= labels_in(target["expr"]) | {"instance"}, panel["title"]


def test_every_rule_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert balanced(rule["expr"])


def test_every_rule_is_seen_to_fire_and_not_to_fire() -> None:
    checks = [check for test in RULE_TESTS for check in test["promql_expr_test"]]
    labels_seen = [sample["labels"] for check in checks for sample in check["exp_samples"]]
    fired = {name for each in labels_seen for name in re.findall(r'alertname="(\w+)"', each)}
    assert fired == {rule["alert"] for rule in RULES}
    assert any(not check["exp_samples"] for check in checks)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
@pytest.mark.parametrize("arguments", [("check", "alerts.yml"), ("test", "alerts.test.yml")])
def test_promtool_passes_the_rules(arguments: tuple[str, str]) -> None:
    command, file = arguments
    told = subprocess.run(
        ["promtool", command, "rules", file],
        cwd=OPS / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    for panel in panels:
        assert panel["datasource"]["uid"] == "${source}"
        assert all(balanced(target["expr"]) for target in panel["targets"])


def balanced(expression: str) -> bool:
    """Whether all brackets are closed."""
    left = re.sub(r'"[^"]*"|[^()\[\]{}]', "", expression)
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", left)) != left:
        left = shorter
    return not left
