"""The dashboard and the alert rules ask for metrics and labels that the code has, and for all of them."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import REGISTRY

import metrics
from api.context import make_services
from api.monitoring import StoreCollector
from settings import Settings
from tasks.metrics_server import BreakerCollector

OPS = Path(__file__).parents[2] / "ops"
DASHBOARD = json.loads((OPS / "grafana" / "takeone.json").read_text())
RULES = yaml.safe_load((OPS / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]

SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
ADDED_BY_PROMETHEUS = {"le", "instance", "job"}


def existing() -> dict[str, str]:
    """Every series that can be asked for, and the metric that it is of."""
    services = make_services(Settings(env="development"))
    store = StoreCollector(services.link, services.settings, services.now)
    families = [*REGISTRY.collect(), *store.describe(), *BreakerCollector(None).describe()]
    return {
        family.name + suffix: family.name
        for family in families
        if family.name.startswith("takeone_")
        for suffix in SUFFIXES[family.type]
    }


def labels() -> set[str]:
    """Every label of a metric of ours."""
    counted = [each for each in vars(metrics).values() if isinstance(each, metrics.Labelled)]
    return {label for each in counted for label in each.names} | {"phase", "lane"}


def expressions() -> list[str]:
    """All that the dashboard and the rules ask for."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*shown, *(rule["expr"] for rule in RULES)]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"takeone_\w+", expression))


def labels_in(expression: str) -> set[str]:
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression)
    return {label.strip() for label in grouped.split(",") if label.strip()} | set(matched)


def test_all_that_is_asked_for_exists() -> None:
    known, known_labels = existing(), labels() | ADDED_BY_PROMETHEUS
    for expression in expressions():
        assert names_in(expression), expression
        assert names_in(expression) <= known.keys(), expression
        assert labels_in(expression) <= known_labels, expression


def test_all_that_exists_is_on_the_dashboard() -> None:
    known = existing()
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
