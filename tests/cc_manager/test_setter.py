"""Bringing the devices to a mode without Kubernetes, and what came of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.mode import CcMode, ModeBits
from cc_manager.settings import WhenBusy
from nodelib.wakeups import Wakeups
from tests.cc_manager.simulated import QUICK, CcNode
from tests.fakes.gpu import FspError

FAIL = replace(QUICK, when_busy=WhenBusy.FAIL)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=2, switches=1) as node:
        yield node


def test_the_devices_are_brought_to_the_mode_and_read_back(node: CcNode) -> None:
    outcome = node.setter().set(CcMode.ON)
    assert outcome.ok
    assert (outcome.mode, outcome.reasons, outcome.waits) == (CcMode.ON, (), False)
    assert [one.active for one in outcome.observations] == [ModeBits(), ModeBits(0b01), ModeBits(0b01)]
    node.assert_all_in("on")


def test_the_second_time_there_is_nothing_to_do(node: CcNode) -> None:
    node.setter().set(CcMode.DEVTOOLS)
    node.kernel.writes.clear()
    knobs = [list(device.knob_writes) for device in node.devices.values()]
    assert node.setter().set(CcMode.DEVTOOLS).ok
    assert node.kernel.writes == []
    assert [device.knob_writes for device in node.devices.values()] == knobs


def test_looking_changes_nothing(node: CcNode) -> None:
    node.setter().set(CcMode.ON)
    node.kernel.writes.clear()
    requests = [len(device.requests) for device in node.devices.values()]
    seen = node.setter().look()
    assert [one.active for one in seen] == [ModeBits(), ModeBits(0b01), ModeBits(0b01)]
    assert [one.staged for one in seen] == [None] * 3
    assert node.kernel.writes == []
    assert [len(device.requests) for device in node.devices.values()] == requests


def test_what_failed_is_told_device_by_device(node: CcNode) -> None:
    stubborn = node.addresses[2]
    node.devices[stubborn].faults.keeps_old_mode = True
    outcome = node.setter().set(CcMode.ON)
    assert not outcome.ok
    assert outcome.reasons == (f"{stubborn}: could not set mode on: the mode register reads off",)
    assert [one.active for one in outcome.observations] == [ModeBits(), ModeBits(0b01), ModeBits()]


def test_a_problem_is_told_and_nothing_is_begun(node: CcNode) -> None:
    broken = node.addresses[1]
    node.devices[broken].faults.is_in_recovery = True
    outcome = node.setter().set(CcMode.ON)
    assert len(outcome.reasons) == 1
    assert outcome.reasons[0].startswith(f"{broken}: it is in recovery mode")
    assert not outcome.waits
    assert node.resets() == []


@pytest.mark.parametrize(("settings", "waits"), [(QUICK, True), (FAIL, False)], ids=["wait", "fail"])
def test_field_24_a_device_in_use_is_waited_for_or_fails_it_by_the_policy(
    node: CcNode, settings: object, waits: bool
) -> None:
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        outcome = node.setter(FAIL if settings is FAIL else QUICK).set(CcMode.ON)
        assert outcome.reasons == (f"in use by a virtual machine: {busy}",)
        assert outcome.waits is waits
        assert node.devices[busy].accesses == 0
    node.assert_all_in("off")


def test_field_41_knobs_that_a_crash_left_are_put_back_although_another_device_has_a_problem(node: CcNode) -> None:
    _, left, broken = node.addresses
    node.devices[left].knobs.update({8: 1, 10: 2})
    node.devices[broken].faults.is_in_recovery = True
    outcome = node.setter().set(CcMode.ON)
    assert [reason.partition(": ")[0] for reason in outcome.reasons] == [str(broken)]
    node.assert_none_in_waiting()
    assert node.devices[left].knobs[10] == 0
    assert node.resets() == []
    seen = {one.address: one for one in outcome.observations}
    assert seen[left].staged == ModeBits()


def test_field_41_knobs_that_cannot_be_put_back_are_told_beside_the_problem(node: CcNode) -> None:
    _, left, broken = node.addresses
    node.devices[left].knobs[8] = 1
    node.devices[left].faults.fsp_errors = (FspError(0x55, is_write=True),)
    node.devices[broken].faults.is_in_recovery = True
    outcome = node.setter().set(CcMode.ON)
    assert len(outcome.reasons) == 2
    assert outcome.reasons[1].startswith(f"{left}: mode on may still be staged: could not set knob 8 (cc) to 0")


def test_being_told_to_stop_leaves_nothing_staged(node: CcNode) -> None:
    wakeups = Wakeups()
    wakeups.request_stop()
    outcome = node.setter(wakeups=wakeups).set(CcMode.ON)
    assert [reason.partition(": ")[2] for reason in outcome.reasons] == [
        f"stopped before: stage mode on on {node.addresses[1]}"
    ]
    node.assert_all_in("off")


def test_a_node_without_devices_has_nothing_to_set(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=0, switches=0) as node:
        assert node.setter().set(CcMode.ON).observations == ()
