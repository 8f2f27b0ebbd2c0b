"""Alerts and dashboard speak of metrics that the agents export, as scraped from the real agents."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.conftest import Lives
from tests.deploy.manifests import AGENTS, DEPLOY, NAMESPACE, agents, deployed, of_kind
from tests.deploy.render import Object

MONITORING = DEPLOY / "overlays/monitoring"
SOURCES = Path(__file__).parents[2] / "agents"
WORDS = {"sum", "min", "max", "by", "or", "and", "increase", "rate", "time", "label_values"}
"""Of PromQL, and of Grafana's queries for variables."""
FROM_THE_SCRAPE = {"node", "pod", "job"}
"""Labels that the PodMonitor adds (`node`) and that Prometheus has of every pod."""

_STRING = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
_GROUPING = re.compile(r"\bby\s*\(([^)]*)\)")
_NAME = re.compile(r"[a-zA-Z_]\w*")


def alerts() -> list[Object]:
    rules = of_kind(deployed(MONITORING), "PrometheusRule")["cgpu-agents"]
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def dashboard() -> Object:
    data = of_kind(deployed(MONITORING), "ConfigMap")["cgpu-agents-dashboard"]["data"]
    document: Object = json.loads(data["dashboard.json"])
    return document


def expressions() -> Iterator[tuple[str, str]]:
    """Every query with where it stands."""
    for alert in alerts():
        yield alert["alert"], alert["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]


@pytest.fixture(scope="module")
def exported(lived: Lives) -> dict[str, set[str]]:
    """Every metric of the four agents by its name in PromQL, with its labels so far."""
    found: dict[str, set[str]] = {"up": set()}
    for agent in AGENTS:
        for family in text_string_to_metric_families(lived(agent).pages["/metrics"]):
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            labels = {label for sample in family.samples for label in sample.labels}
            found |= {f"{family.name}{ending}": labels for ending in endings}
    return found


def test_every_metric_that_is_asked_for_is_exported(exported: dict[str, set[str]]) -> None:
    for place, expression in expressions():
        bare = re.sub(r"\[[^\]]*\]", "", re.sub(r"\{[^}]*\}", "", _GROUPING.sub(" ", _STRING.sub("", expression))))
        names = set(_NAME.findall(bare)) - WORDS - ({"node"} if "label_values" in expression else set())
        assert names, place
        assert names <= set(exported), f"{place}: nobody exports {sorted(names - set(exported))}"


def test_every_label_that_is_asked_for_is_one_of_the_metrics(exported: dict[str, set[str]]) -> None:
    for place, expression in expressions():
        known = FROM_THE_SCRAPE.union(*(labels for name, labels in exported.items() if name in expression))
        asked = {label for label, _ in _SELECTOR.findall(expression)}
        asked |= {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}
        assert asked <= known, f"{place}: no metric there has {sorted(asked - known)}"


def test_every_value_that_is_asked_for_is_one_that_an_agent_can_say() -> None:
    code = "".join(path.read_text() for path in SOURCES.glob("*/src/**/*.py"))
    for place, expression in expressions():
        for label, value in _SELECTOR.findall(expression):
            if label not in FROM_THE_SCRAPE:
                for one in value.split("|"):
                    assert f'"{one}"' in code, f"{place}: {label} is never {one}"


def test_brackets_are_closed() -> None:
    for place, expression in expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), place


def test_every_agent_is_watched_over() -> None:
    asked = " ".join(alert["expr"] for alert in alerts())
    for agent in AGENTS:
        assert f"{agent.replace('-', '_')}_failed_rounds_total" in asked


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(names) == len(set(names))
    for alert in alerts():
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert "{{ $labels.node }}" in alert["annotations"]["summary"], alert["alert"]
        assert alert["annotations"]["description"].endswith(".")


def test_the_pod_monitor_finds_every_agent() -> None:
    monitor = of_kind(deployed(MONITORING), "PodMonitor")["cgpu-agents"]
    assert monitor["metadata"]["namespace"] == NAMESPACE
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for agent in agents(deployed(MONITORING)).values():
        assert wanted <= agent.daemonset["spec"]["template"]["metadata"]["labels"].items()
        assert endpoint["port"] in {port["name"] for port in agent.container["ports"]}
    # The job's name is made of the monitor's namespace and name.
    ((label, pattern),) = _SELECTOR.findall(next(a["expr"] for a in alerts() if a["alert"] == "CgpuAgentDown"))
    job = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"
    assert label == "job"
    assert re.fullmatch(pattern, job)


def test_the_dashboards_panels_have_a_place_each() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
