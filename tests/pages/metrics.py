"""The metrics of each agent, from agents that have prepared a simulated node."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cc_manager.cluster.labels import MODE
from nodelib.daemon import LoopState, RoundResult
from nodelib.metrics import Histogram, Metric, MetricType
from nodelib.serving import loop_metrics
from tests.demo.agents import RunningAgents
from tests.fakes.node import SimulatedNode


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as a scrape shows it."""

    name: str
    """With the `_total` of counters."""
    type: str
    labels: tuple[str, ...]
    help: str


class _Agent(Protocol):
    """What every agent's loop has."""

    def round(self) -> RoundResult: ...

    def metrics(self) -> Iterable[Metric | Histogram]: ...


def collect() -> dict[str, tuple[Family, ...]]:
    """Each agent's own metrics, in the order in which a scrape has them."""
    with (
        tempfile.TemporaryDirectory(prefix="pages-") as folder,
        SimulatedNode("dgx-h100", Path(folder), labels={MODE: "off"}) as simulated,
    ):
        agents = RunningAgents(simulated)
        plugin = agents.device_plugin()
        found = {
            "vfio_manager": _after_a_round(agents.vfio_manager()),
            "cc_manager": _after_a_round(agents.cc_reconciler()),
            "kata_manager": _after_a_round(agents.kata_manager()),
            "device_plugin": _after_a_round(plugin),
        }
        plugin.close()
    return found


def of_every_loop() -> tuple[Family, ...]:
    """Those that all agents have in the same way, as `AGENT_...`."""
    return _families(loop_metrics(LoopState(), "AGENT"))


def _after_a_round(agent: _Agent) -> tuple[Family, ...]:
    agent.round()
    return _families(agent.metrics())


def _families(metrics: Iterable[Metric | Histogram]) -> tuple[Family, ...]:
    return tuple(
        Family(
            f"{metric.name}_total" if metric.type is MetricType.COUNTER else metric.name,
            metric.type.value,
            metric.labels,
            metric.help,
        )
        for metric in metrics
    )
