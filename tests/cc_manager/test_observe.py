"""One look at the mode of every device: what is read from which, and what is left alone."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.mode import CcMode, ModeBits
from cc_manager.observation import Observation, Verified
from cc_manager.observe import observe
from nodelib.nvidia import CLASS_VGA
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import CcNode
from tests.fakes.gpu import FspError
from tests.fakes.kernel import Hardware
from tests.fakes.parts import CLASS_AUDIO, L40S, gpu, nvswitch, other

FIRST, SECOND, THIRD = (PciAddress(0, bus, 0, 0) for bus in (0x1B, 0x1C, 0x1D))
SWITCH = PciAddress(0, 7, 0, 0)
BOOT = "6f2f5a52"
KNOWN = {FIRST: Verified(CcMode.ON, "2026-01-01T00:00:00Z", BOOT)}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=3, switches=1) as node:
        yield node


A100 = 0x20B0


def look(
    node: CcNode, verified: dict[PciAddress, Verified] | None = None, *, wake: bool = True, knobs: bool = True
) -> dict[PciAddress, Observation]:
    found = observe(node.node.scan(), node.access(), verified or {}, boot_id=BOOT, wake=wake, knobs=knobs)
    return {one.address: one for one in found}


def why(one: Observation) -> str:
    assert one.problem is not None
    return str(one.problem)


# --- idle devices


def test_every_gpu_and_switch_is_seen_with_its_active_and_its_staged_mode(node: CcNode) -> None:
    node.put_into("on")
    node.devices[SECOND].knobs[8] = 0
    seen = look(node)
    assert {a: (o.active, o.staged, o.source) for a, o in seen.items()} == {
        SWITCH: (ModeBits(), ModeBits(), "BAR0"),
        FIRST: (ModeBits(0b01), ModeBits(0b01), "BAR0"),
        SECOND: (ModeBits(0b01), ModeBits(0b00), "BAR0"),
        THIRD: (ModeBits(0b01), ModeBits(0b01), "BAR0"),
    }
    assert all(one.problem is None and not one.in_use for one in seen.values())


def test_a_look_changes_no_knob_and_resets_nothing(node: CcNode) -> None:
    look(node)
    assert [device.knob_writes for device in node.devices.values()] == [[]] * 4
    assert node.resets() == []


def test_a_device_without_the_ppcie_knob_is_read_all_the_same(node: CcNode) -> None:
    del node.devices[FIRST].knobs[45]
    assert look(node)[FIRST].staged == ModeBits()


def test_without_knobs_the_firmware_is_not_asked(node: CcNode) -> None:
    seen = look(node, knobs=False)
    assert [one.staged for one in seen.values()] == [None] * 4
    assert [device.requests for device in node.devices.values()] == [[]] * 4


def test_a_mode_is_not_believed_before_the_boot_is_complete(node: CcNode) -> None:
    node.put_into("on")
    for device in node.devices.values():
        device.reset()
    assert look(node)[FIRST].active == ModeBits(0b01)


def test_field_18_the_invalid_state_is_seen_as_what_it_is(node: CcNode) -> None:
    node.devices[FIRST].knobs.update({6: 1, 8: 0})
    node.devices[FIRST].reset()
    one = look(node)[FIRST]
    assert one.active is not None
    assert one.active.mode is None
    assert str(one.active).startswith("invalid")


# --- looking without a write


def test_sleeping_devices_are_left_asleep_and_each_says_so(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=3, awake=False) as node:
        seen = look(node, wake=False, knobs=False)
        assert all("it sleeps (D3hot)" in why(one) for one in seen.values())
        assert node.kernel.writes == []
        assert node.accesses == [0] * 3


def test_devices_that_are_awake_are_looked_at_without_writing_a_register(node: CcNode) -> None:
    written: list[int] = []
    node.on_access.append(lambda address, offset, value: written.append(offset) if value is not None else None)
    seen = look(node, wake=False, knobs=False)
    assert {one.active for one in seen.values()} == {ModeBits()}
    assert (written, node.kernel.writes) == ([], [])


def test_a_booting_device_that_is_only_looked_at_has_no_mode_yet(node: CcNode) -> None:
    node.devices[FIRST].reset()
    seen = look(node, wake=False, knobs=False)
    assert "its boot is not complete" in why(seen[FIRST])
    assert seen[SECOND].active == ModeBits()


# --- devices in use


def test_field_24_a_device_in_use_is_not_touched_and_its_verified_mode_holds(node: CcNode) -> None:
    with node.kernel.start_vm(FIRST):
        node.kernel.writes.clear()
        one = look(node, KNOWN)[FIRST]
        assert (one.in_use, one.active, one.staged) == (True, ModeBits(0b01), None)
        assert (one.source, one.verified_at) == ("label", "2026-01-01T00:00:00Z")
        assert node.devices[FIRST].accesses == 0
        assert not [path for path, _ in node.kernel.writes if str(FIRST) in path]


@pytest.mark.parametrize(
    "known",
    [{}, {SECOND: KNOWN[FIRST]}, {FIRST: replace(KNOWN[FIRST], boot_id="an earlier boot")}],
    ids=["no entry", "another device's entry", "an entry of an earlier boot"],
)
def test_a_device_in_use_that_was_not_verified_in_this_boot_is_in_no_known_mode(
    node: CcNode, known: dict[PciAddress, Verified]
) -> None:
    with node.kernel.start_vm(FIRST):
        one = look(node, known)[FIRST]
    assert (one.in_use, one.active, one.problem, one.verified_at) == (True, None, None, "")


def test_what_was_verified_of_an_idle_device_is_not_asked_for(node: CcNode) -> None:
    assert look(node, KNOWN)[FIRST].active == ModeBits(0b00)


def test_a_vm_makes_all_devices_of_its_group_used(tmp_path: Path) -> None:
    with CcNode(tmp_path, hardware=(gpu(str(FIRST), group=10), gpu(str(SECOND), group=10))) as node:
        with node.kernel.start_vm(SECOND):
            assert [one.in_use for one in look(node).values()] == [True, True]
        assert node.accesses == [0, 0]


# --- devices that cannot be looked at


def test_field_17_a_chip_is_judged_by_what_it_is_and_each_has_a_verdict_with_a_reason(tmp_path: Path) -> None:
    unknown = replace(gpu(str(THIRD), 0x1E07, group=12), pci_class=CLASS_VGA)
    hardware = (gpu(str(FIRST), L40S, group=10), gpu(str(SECOND), A100, group=11), unknown)
    with CcNode(tmp_path, hardware=hardware) as node:
        seen = look(node)
        assert not any(node.accesses)
        assert node.kernel.writes == []
    assert "the chip of device id 0x26b9 is not known" in why(seen[FIRST])
    assert "the chip of device id 0x20b0 is not known" in why(seen[SECOND])
    assert "the chip of device id 0x1e07 is not known" in why(seen[THIRD])
    assert {one.problem.code for one in seen.values() if one.problem} == {"unsupported"}


def test_a_gpus_audio_function_has_no_mode_and_is_not_listed(tmp_path: Path) -> None:
    audio = other("0000:1b:00.1", 0x10DE, 0x10F7, CLASS_AUDIO, group=10)
    with CcNode(tmp_path, hardware=(gpu(str(FIRST), group=10), audio)) as node:
        assert list(look(node)) == [FIRST]


@pytest.mark.parametrize(
    ("group", "remedy"),
    [
        (10, f"driver nvidia holds it; bind it first: vfio-manager bind --device {FIRST}"),
        (None, "in no IOMMU group, so vfio-manager cannot take it from there; switch the IOMMU on first"),
    ],
)
def test_a_device_that_nvidia_holds_is_not_touched_and_the_way_out_is_said(
    tmp_path: Path, group: int | None, remedy: str
) -> None:
    with CcNode(tmp_path, hardware=(gpu(str(FIRST), group=group),), driver="nvidia") as node:
        assert remedy in why(look(node)[FIRST])
        assert (node.accesses, node.kernel.writes) == ([0], [])


def test_devices_without_a_driver_are_looked_at(tmp_path: Path) -> None:
    hardware: tuple[Hardware, ...] = (gpu(str(FIRST), group=None), nvswitch(str(SWITCH), group=None))
    with CcNode(tmp_path, hardware=hardware, driver=None) as node:
        assert [one.active for one in look(node).values()] == [ModeBits(), ModeBits()]


def test_field_21_one_devices_error_is_its_own(node: CcNode) -> None:
    node.devices[FIRST].faults.fsp_errors = (FspError(0x77),)
    node.devices[SECOND].faults.is_in_recovery = True
    node.kernel.fall_off_bus(THIRD)
    seen = look(node)
    assert "could not read knob 6 (devtools): the FSP answered with error 0x77" in why(seen[FIRST])
    assert "it is in recovery mode" in why(seen[SECOND])
    assert "gone from the bus" in why(seen[THIRD])
    assert seen[SWITCH].active == ModeBits()


def test_a_switch_of_another_generation_is_found_out_and_nothing_is_written_to_it(node: CcNode) -> None:
    node.devices[SWITCH].faults.identity = 0x006000A1
    assert "not a third-generation NVSwitch" in why(look(node)[SWITCH])


def test_a_node_without_gpus_has_nothing_to_look_at(tmp_path: Path) -> None:
    with CcNode(tmp_path, hardware=(other("0000:00:14.0", 0x8086, 0x7AE0, 0x0C0330),)) as node:
        assert look(node) == {}


def test_all_devices_are_looked_at_at_the_same_time(node: CcNode) -> None:
    """Each waits, at its first access, until all the others have made theirs."""
    all_here = threading.Barrier(len(node.devices), timeout=20)
    begun: set[PciAddress] = set()

    def meet(address: PciAddress, offset: int, value: int | None) -> None:
        if address not in begun:
            begun.add(address)
            all_here.wait()

    node.on_access.append(meet)
    assert all(one.active == ModeBits() for one in look(node).values())
