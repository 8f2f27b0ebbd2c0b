"""A change of mode carried out: the order of its phases, what runs at the same time, and what is put back."""

import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.apply import Failure, Transition
from cc_manager.mode import CcMode
from cc_manager.plan import Plan, Reset, Stage, plan_transition
from cc_manager.settings import PpcieExit, Settings
from nodelib.pci import PciAddress
from tests.cc_manager.invariant import staged
from tests.cc_manager.simulated import COMMAND_HEAD, MODE_REGISTERS, QUICK, CcNode
from tests.fakes.gpu import Chip, Faults, FspError

ALL = 8


def is_gpu(node: CcNode, address: PciAddress) -> bool:
    return node.devices[address].chip is Chip.GH100


NO_RETRY = replace(QUICK, device_retries=0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=6, switches=2) as node:
        yield node


def transition(
    node: CcNode, mode: CcMode, stopped: Callable[[], bool] = lambda: False, settings: Settings = NO_RETRY
) -> tuple[Transition, Plan]:
    """What a change to *mode* takes, looked at just before; the kernel's log begins after it."""
    observations = node.setter().observe({}, knobs=True)
    node.kernel.writes.clear()
    change = Transition(node.access(), node.node.sysfs, observations, settings, stopped)
    return change, plan_transition(observations, mode, settings.ppcie_exit)


def carry_out(node: CcNode, mode: CcMode = CcMode.PPCIE) -> tuple[Failure, ...]:
    change, plan = transition(node, mode)
    return change.carry_out(plan)


# --- the order


@pytest.mark.parametrize("before", ["off", "on", "devtools", "ppcie"])
def test_every_mode_is_reached_from_every_other_and_the_second_plan_is_empty(tmp_path: Path, before: str) -> None:
    with CcNode(tmp_path, gpus=1, switches=1) as node:
        for mode in CcMode:
            node.put_into(before)
            assert carry_out(node, mode) == ()
            node.assert_all_in(mode.value)
            _, plan = transition(node, mode)
            assert plan.is_done


def test_field_34_every_device_is_staged_before_the_first_is_reset(node: CcNode) -> None:
    at_first_reset: list[bool] = []

    def note(path: str, value: str) -> None:
        if path.endswith("/reset") and not at_first_reset:
            at_first_reset.extend(staged(device).is_ppcie for device in node.devices.values())

    change, plan = transition(node, CcMode.PPCIE)
    node.kernel.faults.before_write = note
    assert change.carry_out(plan) == ()
    assert at_first_reset == [True] * ALL


def test_field_34_every_device_is_reset_before_the_first_is_verified(node: CcNode) -> None:
    change, plan = transition(node, CcMode.PPCIE)
    resets_at_reading: list[int] = []

    def note(address: PciAddress, offset: int, value: int | None) -> None:
        if offset == MODE_REGISTERS[node.devices[address].chip] and value is None:
            resets_at_reading.append(sum(device.resets for device in node.devices.values()))

    node.on_access.append(note)
    assert change.carry_out(plan) == ()
    assert len(resets_at_reading) >= ALL
    assert set(resets_at_reading) == {ALL}
    assert sorted(node.resets()) == [str(address) for address in node.addresses]


def test_nothing_is_asked_of_the_firmware_between_the_resets(node: CcNode) -> None:
    change, plan = transition(node, CcMode.PPCIE)
    resets_at_asking: list[int] = []

    def note(address: PciAddress, offset: int, value: int | None) -> None:
        if offset == COMMAND_HEAD and value is not None:
            resets_at_asking.append(sum(device.resets for device in node.devices.values()))

    node.on_access.append(note)
    assert change.carry_out(plan) == ()
    assert set(resets_at_asking) <= {0, ALL}


def test_each_device_is_reset_once(node: CcNode) -> None:
    carry_out(node)
    assert [device.resets for device in node.devices.values()] == [1] * ALL


def test_devices_that_are_in_the_mode_already_are_neither_staged_nor_reset(node: CcNode) -> None:
    changing = node.addresses[-1]
    node.put_into("on")
    node.devices[changing].knobs.update({8: 0, 10: 0})
    node.devices[changing].reset()
    before = {address: (device.resets, device.knob_writes) for address, device in node.devices.items()}
    assert carry_out(node, CcMode.ON) == ()
    node.assert_all_in("on")
    assert node.resets() == [str(changing)]
    unchanged = set(node.devices) - {changing}
    assert all(before[a] == (node.devices[a].resets, node.devices[a].knob_writes) for a in unchanged)


def test_where_only_knobs_are_left_behind_they_are_put_back_without_a_reset(node: CcNode) -> None:
    first = node.addresses[2]
    node.devices[first].knobs[8] = 1
    assert carry_out(node, CcMode.OFF) == ()
    node.assert_all_in("off")
    assert node.resets() == []


# --- at the same time


class Meeting:
    """Lets each device go on only when all devices have come to the same point: alone nobody gets past it."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(ALL, timeout=20)
        self._here: set[str] = set()

    def come(self, address: object) -> None:
        if str(address) not in self._here:
            self._here.add(str(address))
            self._barrier.wait()

    @property
    def is_over(self) -> bool:
        return len(self._here) == ALL


@pytest.mark.parametrize("phase", ["stage", "reset", "verify"])
def test_eight_devices_are_worked_on_at_the_same_time_in_each_phase(node: CcNode, phase: str) -> None:
    change, plan = transition(node, CcMode.PPCIE)
    meeting = Meeting()

    def at_access(address: PciAddress, offset: int, value: int | None) -> None:
        is_asking = offset == COMMAND_HEAD and value is not None
        is_verifying = offset == MODE_REGISTERS[node.devices[address].chip]
        if (phase == "stage" and is_asking) or (phase == "verify" and is_verifying):
            meeting.come(address)

    def at_write(path: str, value: str) -> None:
        if phase == "reset" and path.endswith("/reset"):
            meeting.come(path)

    node.on_access.append(at_access)
    node.kernel.faults.before_write = at_write
    assert change.carry_out(plan) == ()
    assert meeting.is_over
    node.assert_all_in("ppcie")


# --- what fails is put back


def test_field_41_if_one_device_cannot_be_staged_the_others_are_put_back_and_none_is_reset(node: CcNode) -> None:
    refusing = node.addresses[3]
    node.devices[refusing].knobs[44] = 0
    (failure,) = carry_out(node)
    assert failure.address == refusing
    assert "could not set knob 45 (ppcie) to 1: the host may not change it" in failure.reason
    node.assert_all_in("off")
    assert node.resets() == []


def test_field_41_if_one_reset_is_refused_that_device_is_put_back_and_the_others_keep_what_they_came_to(
    node: CcNode,
) -> None:
    refusing = node.addresses[3]
    node.kernel.faults.fail[refusing, "reset"] = errno.ENOTTY
    (failure,) = carry_out(node)
    assert failure.address == refusing
    assert "refused the write to" in failure.reason
    node.assert_none_in_waiting()
    assert [a for a, device in node.devices.items() if not device.active.is_ppcie] == [refusing]


def test_a_device_that_cannot_be_put_back_is_told_with_what_may_still_be_staged(node: CcNode) -> None:
    lost = node.addresses[3]
    node.devices[lost].faults.gone_at_reset = True
    failures = carry_out(node)
    assert [one.address for one in failures] == [lost, lost]
    assert failures[1].reason.startswith("mode ppcie may still be staged: ")
    node.assert_none_in_waiting()


def test_being_told_to_stop_before_the_resets_puts_the_knobs_back(node: CcNode) -> None:
    looks = iter([False, True])
    change, plan = transition(node, CcMode.PPCIE, lambda: next(looks))
    failures = change.carry_out(plan)
    assert [str(one) for one in failures] == [f"{node.addresses[0]}: stopped before: reset {node.addresses[0]}"]
    node.assert_all_in("off")
    assert node.resets() == []


def test_field_42_a_vm_that_opened_a_device_after_the_staging_is_not_reset_under_it(node: CcNode) -> None:
    opened = node.addresses[4]
    calls = iter(range(3))
    machines = []

    def look_away() -> bool:
        if next(calls) == 1:
            machines.append(node.kernel.start_vm(opened))
        return False

    change, plan = transition(node, CcMode.ON, look_away)
    failures = change.carry_out(plan)
    assert {one.address for one in failures} == {opened}
    assert str(failures[0]) == f"{opened}: a virtual machine has it open"
    assert node.kernel.complaints == []
    assert str(opened) not in node.resets()
    node.assert_none_in_waiting()
    machines[0].close()


def test_field_24_a_device_in_use_is_left_alone_when_the_others_are_put_back(node: CcNode) -> None:
    busy, left = node.addresses[2], node.addresses[3]
    with node.kernel.start_vm(busy):
        node.devices[left].knobs[8] = 1
        accesses = node.devices[busy].accesses
        change, _ = transition(node, CcMode.ON)
        assert change.put_back(CcMode.ON) == ()
        assert node.devices[busy].accesses == accesses
    node.assert_all_in("off")


# --- tried again


ONE_RETRY = replace(QUICK, device_retries=1)


def test_field_18_a_device_whose_firmware_was_silent_once_is_staged_again_and_the_others_are_not(node: CcNode) -> None:
    flaky = node.addresses[3]
    change, plan = transition(node, CcMode.ON, settings=ONE_RETRY)
    node.devices[flaky].faults.fsp_errors = (FspError(0x42, knob=8, is_write=True, times=1),)
    assert change.carry_out(plan) == ()
    node.assert_all_in("on")
    assert [device.resets for device in node.devices.values()] == [1 if is_gpu(node, a) else 0 for a in node.devices]


def test_field_18_a_mode_that_did_not_stick_is_staged_and_reset_for_once_more_on_that_device_alone(
    node: CcNode,
) -> None:
    stubborn = node.addresses[3]
    device = node.devices[stubborn]
    change, plan = transition(node, CcMode.ON, settings=ONE_RETRY)
    device.at_reset = {device.resets + 1: Faults(keeps_old_mode=True), device.resets + 2: Faults()}
    assert change.carry_out(plan) == ()
    node.assert_all_in("on")
    assert sorted(node.resets()) == sorted([str(a) for a in node.devices if is_gpu(node, a)] + [str(stubborn)])


def test_what_fails_again_is_given_up_with_the_last_reason_and_put_back(node: CcNode) -> None:
    refusing = node.addresses[3]
    change, plan = transition(node, CcMode.ON, settings=ONE_RETRY)
    node.devices[refusing].faults.fsp_errors = (FspError(0x42, knob=8, is_write=True),)
    (failure,) = change.carry_out(plan)
    assert str(failure) == f"{refusing}: could not set knob 8 (cc) to 1: the FSP answered with error 0x42"
    assert [request[1:] for request in node.devices[refusing].requests].count((0x0008_020D, 1)) == 2
    node.assert_all_in("off")


@pytest.mark.parametrize("knob", [44, 9])
def test_what_only_the_baseboard_controller_can_change_is_not_tried_again(node: CcNode, knob: int) -> None:
    refusing = node.addresses[3]
    node.devices[refusing].knobs[knob] = 0
    change, plan = transition(node, CcMode.PPCIE, settings=ONE_RETRY)
    asked = len(node.devices[refusing].requests)
    (failure,) = change.carry_out(plan)
    assert "only the baseboard controller (BMC) can" in failure.reason
    once = [r for r in node.devices[refusing].requests[asked:] if r[1] == 0x020C | knob << 16]
    assert len(once) == 1


def test_no_further_attempt_is_made_after_the_deadline_or_when_told_to_stop(node: CcNode) -> None:
    silent = node.addresses[3]
    node.devices[silent].faults.fsp_errors = (FspError(0x42, knob=8, is_write=True, times=1),)
    change, plan = transition(node, CcMode.ON, settings=replace(QUICK, device_retries=5, device_timeout_s=0.0))
    assert [one.address for one in change.carry_out(plan)] == [silent]
    node.devices[silent].faults.fsp_errors = (FspError(0x42, knob=8, is_write=True, times=1),)
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) > 1  # not before the first phase, but at the first thought of another attempt

    change, plan = transition(node, CcMode.ON, stopped, replace(QUICK, device_retries=5))
    assert [one.address for one in change.carry_out(plan)] == [silent]
    node.assert_all_in("off")


def test_field_15_a_reset_that_hangs_is_not_asked_for_again(node: CcNode) -> None:
    hanging = node.addresses[3]
    node.kernel.faults.hang.add((hanging, "reset"))
    change, plan = transition(node, CcMode.ON, settings=replace(ONE_RETRY, reset_timeout_s=0.5))
    failures = change.carry_out(plan)
    assert {one.address for one in failures} == {hanging}
    assert node.resets().count(str(hanging)) <= 1
    node.kernel.release_hangs()


# --- leaving PPCIe


@pytest.mark.parametrize("mode", ["off", "on", "devtools"])
def test_ppcie_can_be_left_in_a_reset_of_its_own(node: CcNode, mode: str) -> None:
    node.put_into("ppcie")
    seen: set[str] = set()

    def note(path: str, value: str) -> None:
        if path.endswith("/reset"):
            seen.update(str(device.knobs[8]) for device in node.devices.values() if device.active.is_ppcie)

    change, plan = transition(node, CcMode(mode), settings=replace(NO_RETRY, ppcie_exit=PpcieExit.TWO_PASS))
    node.kernel.faults.before_write = note
    assert change.carry_out(plan) == ()
    assert seen == {"0"}, "no device was reset out of PPCIe with CC staged"
    node.assert_all_in(mode)


def test_a_step_for_a_device_whose_mode_cannot_be_set_fails_by_itself(node: CcNode) -> None:
    observations = node.setter().observe({}, knobs=True)
    # A plan never holds such a step; the observations that it was made from may not be the transition's.
    change = Transition(
        node.access(),
        node.node.sysfs,
        [type(one)(one.device, None, in_use=False) for one in observations],
        NO_RETRY,
    )
    first = node.addresses[0]
    plan = Plan(CcMode.ON, ((Stage(first, CcMode.ON),), (Reset(first),)))
    assert change.carry_out(plan) == (Failure(first, "its mode cannot be set"),)
