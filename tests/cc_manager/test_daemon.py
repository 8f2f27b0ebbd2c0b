"""The whole daemon of cc-manager in a thread: label watch, rounds, lock and ready file."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from nodelib.errors import NodeError
from nodelib.settings import DaemonSettings
from tests.cc_manager.running import RunningManager
from tests.cc_manager.simulated import CcNode
from tests.fakes.gpu import Chip
from tests.fakes.polling import until

READY_FILE = "run/nvidia/validations/.cc-manager-ctr-ready"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=2, switches=1) as node:
        yield node


def ready_file(node: CcNode) -> Path:
    return node.node.host.root / READY_FILE


def wait_for_state(node: CcNode, state: str) -> None:
    node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == state)


def test_the_daemon_follows_the_label_and_its_ready_file_goes_with_it(node: CcNode) -> None:
    with RunningManager(node):
        wait_for_state(node, "on")
        until(ready_file(node).exists)
        node.want("off")
        wait_for_state(node, "off")
        node.assert_all_in("off")
    assert not ready_file(node).exists()
    node.assert_says("off")


def test_a_label_that_changes_while_the_change_is_under_way_is_picked_up(node: CcNode) -> None:
    is_resetting, may_go_on = threading.Event(), threading.Event()

    def hold(path: str, value: str) -> None:
        if path.endswith("/reset"):
            is_resetting.set()
            assert may_go_on.wait(20)

    node.want("off")
    with RunningManager(node):
        wait_for_state(node, "off")
        node.kernel.faults.before_write = hold
        node.want("on")
        assert is_resetting.wait(20)
        node.want("ppcie")
        may_go_on.set()
        wait_for_state(node, "ppcie")
    node.assert_all_in("ppcie")
    assert node.api.history_of_labels(labels.STATE) == [None, "off", "on", "ppcie"]


def test_field_29_a_label_that_is_touched_after_a_failure_is_tried_at_once(node: CcNode) -> None:
    """No timer comes to help: a wrong label is not tried again by itself, and the interval is a minute."""
    node.want("yes")
    with RunningManager(node):
        wait_for_state(node, "failed")
        node.want(None)
        wait_for_state(node, "on")
    node.assert_says("on")


def test_a_device_that_comes_to_the_bus_is_brought_to_the_mode(node: CcNode) -> None:
    new = node.addresses[1]
    node.kernel.unplug(new)
    with RunningManager(node):
        node.api.wait_until(lambda: node.api.annotations.get(labels.MESSAGE) == "2 devices verified in mode on")
        node.devices[new].gone = False
        node.kernel.plug_back(new)
        node.api.wait_until(lambda: node.api.annotations[labels.MESSAGE] == "3 devices verified in mode on")
    node.assert_all_in("on")


def test_a_second_daemon_on_the_node_is_refused(node: CcNode) -> None:
    with RunningManager(node):
        wait_for_state(node, "on")
        second = node.manager()
        with pytest.raises(NodeError, match="another cc-manager on this node holds"):
            second.run(DaemonSettings(interval_s=60.0, listen=""))


def test_a_dgx_h100_goes_on_and_off_again_and_its_switches_stand_aside(tmp_path: Path) -> None:
    with CcNode(tmp_path, topology="dgx-h100", labels={labels.MODE: "off"}) as node, RunningManager(node):
        assert len(node.devices) == 12
        for mode in ("off", "on", "off"):
            node.want(mode)
            wait_for_state(node, mode)
            node.assert_all_in(mode)
            node.assert_says(mode)
        assert {(device.chip, device.resets) for device in node.devices.values()} == {
            (Chip.GH100, 2),
            (Chip.NVSWITCH_GEN3, 0),
        }
