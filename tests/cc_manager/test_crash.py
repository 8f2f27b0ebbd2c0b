"""The process ends after any step of a change; a fresh start brings the node to its mode and its labels to the truth.

A crash is an exception that nothing of ours catches, raised before or after each patch of the node, each eviction, each
knob that is written, each reset, and each reading of a mode. From then on every such step of every thread raises it.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.assemble import Cluster, assemble
from cc_manager.cluster import labels
from cc_manager.gpu.access import Access
from cc_manager.setter import ModeSetter
from cc_manager.settings import WhenBusy
from nodelib.kube import MERGE_PATCH, ApiAccess, Json, Kube
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.slow_reads import SlowReader
from nodelib.sysfs import Sysfs
from tests.cc_manager.simulated import (
    COMMAND_HEAD,
    EMEM_CONTROL,
    EMEM_DATA,
    MODE_REGISTERS,
    NODE_NAME,
    QUICK,
    CcNode,
    Crash,
)
from tests.cc_manager.workloads import add_operands, operand_labels

WRITE_KNOB = 0x0D
EVICT = replace(QUICK, when_busy=WhenBusy.EVICT)
OPERANDS = ("vfio-manager", "kata-sandbox-device-plugin")
MODES = ("off", "on", "devtools", "ppcie")
KINDS = {
    "before a patch",
    "after a patch",
    "before an eviction",
    "after an eviction",
    "before a knob",
    "after a knob",
    "before the reset",
    "after the reset",
    "before the mode",
}


class CrashPoint:
    """Raises Crash at the step with this number, and at every later one."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.reached = ""

    def step(self, what: str) -> None:
        self._left -= 1
        if self._left <= 0:
            self.reached = self.reached or what
            raise Crash


class CrashingKube(Kube):
    def __init__(self, access: ApiAccess, point: CrashPoint) -> None:
        super().__init__(access)
        self._point = point

    def patch(self, path: str, body: object, content_type: str = MERGE_PATCH) -> Json:
        self._point.step("before a patch")
        answer = super().patch(path, body, content_type)
        self._point.step("after a patch")
        return answer

    def post(self, path: str, body: object, timeout_s: float = 30.0) -> Json:
        self._point.step("before an eviction")
        answer = super().post(path, body, timeout_s)
        self._point.step("after an eviction")
        return answer


class CrashingSysfs(Sysfs):
    point: CrashPoint

    def reset(self, address: PciAddress, timeout_s: float) -> None:
        self.point.step(f"before the reset of {address}")
        super().reset(address, timeout_s)
        self.point.step(f"after the reset of {address}")


def at_registers(node: CcNode, point: CrashPoint) -> Callable[[PciAddress, int, int | None], None]:
    """Crashes where a knob is to be written, at the access after that, and where a mode is read."""
    sent: dict[PciAddress, list[int]] = {address: [] for address in node.devices}
    written: set[PciAddress] = set()

    def look(address: PciAddress, offset: int, value: int | None) -> None:
        if address in written:
            written.discard(address)
            point.step(f"after a knob of {address}")
        if value is None:
            if offset == MODE_REGISTERS[node.devices[address].chip]:
                point.step(f"before the mode of {address}")
        elif offset == EMEM_CONTROL:
            sent[address].clear()
        elif offset == EMEM_DATA:
            sent[address].append(value)
        elif offset == COMMAND_HEAD and len(sent[address]) == 4 and sent[address][2] & 0xFF == WRITE_KNOB:
            point.step(f"before a knob of {address}")
            written.add(address)

    return look


def run_into(node: CcNode, sysfs: CrashingSysfs, point: CrashPoint) -> bool:
    """One round of a process that may end at *point*; whether it did."""
    sysfs.point = point
    crashing = Node(node.node.host, sysfs, node.node.events)
    kube = CrashingKube(ApiAccess(node.api.url, token=node.api.token), point)
    setter = ModeSetter(crashing, Access(crashing, node.map_words, node.time.clock), EVICT)
    manager = assemble(setter, Cluster(kube, NODE_NAME, node.pods), clock=node.time.clock)
    node.on_access[:] = [at_registers(node, point)]
    try:
        manager.round()
    except Crash:
        return True
    finally:
        node.on_access.clear()
        kube.close()
    return False


def crash_everywhere(node: CcNode, before: str, mode: str, wanted: str) -> list[str]:
    """Crash at every step of the change from *before* to *mode*, start afresh with the label *wanted*; the steps."""
    add_operands(node, *OPERANDS)
    reached: list[str] = []
    gpu = node.addresses[-1]
    sysfs = CrashingSysfs(node.kernel.host, node.kernel.writer(), SlowReader(10.0))
    for number in itertools.count(1):
        node.want(before)
        node.put_into(before)
        assert node.manager(EVICT).round().ready
        node.pods.admit("vm", gpu)
        node.pods.start_vm("vm", gpu)
        node.want(mode)
        point = CrashPoint(number)
        if not run_into(node, sysfs, point):
            break
        reached.append(point.reached)
        node.refuse_untrue_labels(node.api.state)
        node.want(wanted)
        assert node.manager(EVICT).round().ready, f"after a crash {point.reached}"
        node.assert_all_in(wanted)
        node.assert_says(wanted)
        assert operand_labels(node) == dict.fromkeys(OPERANDS, "true"), f"after a crash {point.reached}"
        node.pods.delete_all()
    node.assert_all_in(mode)
    assert operand_labels(node) == dict.fromkeys(OPERANDS, "true")
    sysfs.close()
    return reached


@pytest.mark.parametrize(("before", "mode"), list(itertools.permutations(MODES, 2)))
def test_field_16_and_18_after_a_crash_at_any_step_a_fresh_start_ends_in_the_right_mode_with_nobody_left_paused(
    tmp_path: Path, before: str, mode: str
) -> None:
    with CcNode(tmp_path, gpus=1, switches=1) as node:
        steps = crash_everywhere(node, before, mode, wanted=mode)
        assert labels.FAILED not in node.api.history_of_labels(labels.STATE)
    assert {text.partition(" of ")[0] for text in steps} == KINDS


@pytest.mark.parametrize(("before", "mode"), [("on", "off"), ("off", "on"), ("devtools", "on"), ("on", "ppcie")])
def test_after_a_crash_at_any_step_the_change_can_be_taken_back(tmp_path: Path, before: str, mode: str) -> None:
    with CcNode(tmp_path, gpus=2, switches=1) as node:
        steps = crash_everywhere(node, before, mode, wanted=before)
    assert {text.partition(" of ")[0] for text in steps} == KINDS
