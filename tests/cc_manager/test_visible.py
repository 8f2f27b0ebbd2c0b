"""What an administrator sees of changes that fail, wait and succeed: Events, metrics, log. Field-problems, row 38."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from nodelib.event_reasons import EventReason
from nodelib.events import EventPoster
from nodelib.metrics import Histogram, Metric
from tests.cc_manager.simulated import NODE_NAME, QUICK, CcNode
from tests.cc_manager.workloads import add_operands


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=2, labels={labels.MODE: "off"}) as node:
        assert node.manager().round().ready
        yield node


class Told:
    """Collects what would be Events."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, reason: EventReason, message: str) -> None:
        self.all.append((reason.name, message))


def test_field_38_a_verified_change_is_told(node: CcNode) -> None:
    told = Told()
    manager = node.manager(tell=told)
    node.want("on")
    manager.round()
    manager.round()
    assert told.all == [("CcModeChanged", "2 devices verified in mode on")]


def test_field_29_every_failed_attempt_is_told_by_its_number(node: CcNode) -> None:
    told = Told()
    manager = node.manager(tell=told)
    node.devices[node.addresses[0]].knobs[7] = 0
    node.want("on")
    messages = [manager.round().message for _ in range(3)]
    assert [reason for reason, _ in told.all] == ["CcModeFailed"] * 3
    assert [message.partition(":")[0] for _, message in told.all] == ["attempt 1", "attempt 2", "attempt 3"]
    assert len(set(messages)) == 3, "the loop logs what differs"
    node.devices[node.addresses[0]].knobs[7] = 1
    assert manager.round().ready
    assert told.all[-1][0] == "CcModeChanged"
    node.devices[node.addresses[0]].knobs[7] = 0
    node.want("off")
    manager.round()
    assert told.all[-1][1].startswith("attempt 1: ")


def test_field_29_an_attempt_that_cannot_begin_writes_the_node_only_once(node: CcNode) -> None:
    node.kernel.set_lockdown("integrity")
    node.want("on")
    manager = node.manager()
    manager.round()
    before = len(node.api.history)
    manager.round()
    manager.round()
    assert len(node.api.history) == before


def test_a_wait_is_told_once_for_each_whom_it_waits_for(node: CcNode) -> None:
    told = Told()
    manager = node.manager(tell=told)
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    manager.round()
    manager.round()
    node.pods.admit("second", node.addresses[1])
    manager.round()
    assert [reason for reason, _ in told.all] == ["CcModeWaits", "CcModeWaits"]
    assert told.all[1][1].endswith("held by pod tenant/second, pod tenant/vm")


def test_operands_that_stay_paused_are_told(node: CcNode) -> None:
    told = Told()
    add_operands(node)
    node.devices[node.addresses[0]].faults.fsp_is_silent = True
    node.api.set_label("nvidia.com/gpu.deploy.vfio-manager", "paused-for-cc-mode-change")
    node.manager(tell=told).round()
    assert [reason for reason, _ in told.all if reason == "OperandsStayPaused"] == ["OperandsStayPaused"]


def test_events_are_on_the_node_in_the_api_server(node: CcNode) -> None:
    poster = EventPoster(node.kube, NODE_NAME, "cc-manager")
    node.want("on")
    node.manager(QUICK, tell=poster.post).round()
    poster.close(10.0)
    (event,) = node.api.events
    assert (event.type, event.reason, event.about) == ("Normal", "CcModeChanged", f"Node/{NODE_NAME}")


def test_metrics_tell_how_long_changes_took_and_why_others_failed(node: CcNode) -> None:
    manager = node.manager()
    node.want("on")
    manager.round()
    node.kernel.set_lockdown("integrity")
    node.want("off")
    manager.round()
    node.want("yes")
    manager.round()
    found = {metric.name: metric for metric in manager.metrics()}
    failed = found["cc_manager_failed_transitions"]
    assert isinstance(failed, Metric)
    assert failed.labels == ("reason",)
    assert {code: count for code, count in failed.values.items() if count} == {
        ("unreadable",): 1.0,
        ("unknown-mode",): 1.0,
    }
    durations = found["cc_manager_transition_duration_seconds"]
    assert isinstance(durations, Histogram)
    assert sum(durations.counts.values()) == 1
    assert list(durations.counts)[-1] == float("inf")
    last = found["cc_manager_last_failure_timestamp_seconds"]
    assert isinstance(last, Metric)
    assert list(last.values) == [("unknown-mode",)]


def test_field_33_ppcie_on_a_node_without_switches_is_set_and_doubted_once(node: CcNode) -> None:
    told = Told()
    manager = node.manager(tell=told)
    node.want("ppcie")
    for _ in range(3):
        assert manager.round().ready
    doubts = [message for reason, message in told.all if reason == "CcModeDoubtful"]
    assert len(doubts) == 1
    assert "no NVSwitch" in doubts[0]
