"""Opening a device for register access: what is switched on for it, what is put back, and what is refused."""

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.errors import Bar0Refused
from cc_manager.gpu.chips import HOPPER_GPU
from nodelib.errors import DeviceBusy, DeviceError, DeviceGone
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import CcNode
from tests.fakes.parts import gpu

GPU, NEIGHBOUR = PciAddress(0, 0x1B, 0, 0), PciAddress(0, 0x1C, 0, 0)
MEMORY_DECODING = 0x2


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Two GPUs asleep, as vfio-pci leaves idle ones."""
    with CcNode(tmp_path, awake=False) as node:
        yield node


@pytest.fixture
def without_decoding(tmp_path: Path) -> Iterator[CcNode]:
    """One GPU without a driver, its memory decoding left off by the firmware."""
    hardware = replace(gpu(str(GPU), group=10), memory_decoding=False)
    with CcNode(tmp_path, hardware=(hardware,), driver=None) as node:
        yield node


def attribute(node: CcNode, name: str) -> str:
    return (node.host_folder(GPU) / name).read_text().strip()


def command(node: CcNode) -> int:
    return (node.host_folder(GPU) / "config").read_bytes()[4]


def open_it(node: CcNode, *, wake: bool = True) -> int:
    """What the identity register reads."""
    with node.access().opened(GPU, HOPPER_GPU, wake=wake) as device:
        return device.identify()


# --- there or not


def test_a_device_that_nothing_answers_for_is_off_the_bus_but_one_that_sleeps_or_is_broken_is_not(node: CcNode) -> None:
    access = node.access()
    node.devices[NEIGHBOUR].faults.identity = 0xBADF5040
    assert (access.is_off_bus(GPU), access.is_off_bus(NEIGHBOUR)) == (False, False)
    node.kernel.fall_off_bus(GPU)
    assert not access.is_off_bus(GPU)  # asleep still: it might only be that
    node.kernel.write(node.host_folder(GPU) / "power/control", "on")
    node.kernel.unplug(NEIGHBOUR)
    assert (access.is_off_bus(GPU), access.is_off_bus(NEIGHBOUR)) == (True, True)


# --- awake


def test_field_20_a_sleeping_device_is_woken_and_kept_awake(node: CcNode) -> None:
    assert (attribute(node, "power_state"), attribute(node, "power/control")) == ("D3hot", "auto")
    assert open_it(node) == 0x180000A1
    assert (attribute(node, "power_state"), attribute(node, "power/control")) == ("D0", "on")
    assert node.kernel.writes == [(f"bus/pci/devices/{GPU}/power/control", "on")]


def test_a_sleeping_device_that_is_only_looked_at_is_left_asleep_and_said_to_be(node: CcNode) -> None:
    with pytest.raises(DeviceError, match=r"it sleeps \(D3hot\) and is not woken only to be looked at"):
        open_it(node, wake=False)
    assert attribute(node, "power_state") == "D3hot"
    assert (node.kernel.writes, node.accesses) == ([], [0, 0])


def test_a_device_that_is_awake_is_looked_at_without_a_write(node: CcNode) -> None:
    node.node.sysfs.keep_awake(GPU)
    node.kernel.writes.clear()
    assert open_it(node, wake=False) == 0x180000A1
    assert open_it(node) == 0x180000A1
    assert node.kernel.writes == []


def test_field_20_a_device_that_does_not_wake_up_is_given_up_after_a_while(node: CcNode) -> None:
    node.node.sysfs.keep_awake(GPU)
    (node.host_folder(GPU) / "power_state").unlink()  # only root could write to it
    (node.host_folder(GPU) / "power_state").write_text("D3cold\n")
    with pytest.raises(DeviceError, match=r"it does not wake up \(D3cold\); reset or power-cycle it"):
        open_it(node)
    assert node.accesses == [0, 0]


def test_a_kernel_that_refuses_to_wake_it_is_quoted(node: CcNode) -> None:
    node.kernel.faults.fail[GPU, "power/control"] = errno.EIO
    with pytest.raises(DeviceError, match=r"0000:1b:00.0: the kernel refused the write to .*/power/control"):
        open_it(node)


# --- memory decoding


def test_memory_decoding_is_switched_on_for_the_access_and_back_off(without_decoding: CcNode) -> None:
    node = without_decoding
    assert command(node) & MEMORY_DECODING == 0
    with node.access().opened(GPU, HOPPER_GPU) as device:
        assert device.identify() == 0x180000A1
        assert command(node) & MEMORY_DECODING
    assert command(node) & MEMORY_DECODING == 0


def test_memory_decoding_is_switched_back_off_after_an_error(without_decoding: CcNode) -> None:
    node = without_decoding
    with pytest.raises(KeyError), node.access().opened(GPU, HOPPER_GPU):
        raise KeyError
    assert command(node) & MEMORY_DECODING == 0


def test_a_vm_that_opened_the_device_meanwhile_keeps_its_memory_decoding(tmp_path: Path) -> None:
    hardware = replace(gpu(str(GPU), group=10), memory_decoding=False)
    with CcNode(tmp_path, hardware=(hardware,)) as node:
        assert command(node) & MEMORY_DECODING == 0
        with node.access().opened(GPU, HOPPER_GPU):
            vm = node.kernel.start_vm(GPU)
        with vm:
            assert command(node) & MEMORY_DECODING


def test_memory_decoding_that_was_on_stays_on(node: CcNode) -> None:
    before = command(node)
    open_it(node)
    assert command(node) == before
    assert before & MEMORY_DECODING


def test_memory_decoding_is_not_switched_on_only_to_look(without_decoding: CcNode) -> None:
    node = without_decoding
    with pytest.raises(DeviceError, match="its memory decoding is off, so its registers cannot be read without"):
        open_it(node, wake=False)
    assert command(node) & MEMORY_DECODING == 0
    assert node.accesses == [0]


def test_lockdown_that_forbids_switching_memory_decoding_on_is_named(without_decoding: CcNode) -> None:
    without_decoding.kernel.set_lockdown("confidentiality")
    with pytest.raises(DeviceError, match=r"kernel lockdown \(confidentiality\)"):
        open_it(without_decoding)


# --- refused


@pytest.mark.parametrize("wake", [True, False])
def test_field_24_a_device_that_a_vm_has_open_is_not_touched(node: CcNode, wake: bool) -> None:
    with node.kernel.start_vm(GPU):
        node.kernel.writes.clear()
        with pytest.raises(DeviceBusy, match=r"0000:1b:00\.0: a virtual machine has it open"):
            open_it(node, wake=wake)
        assert (node.kernel.writes, node.accesses) == ([], [0, 0])


def test_a_device_is_in_use_as_soon_as_another_of_its_group_is(tmp_path: Path) -> None:
    with CcNode(tmp_path, hardware=(gpu(str(GPU), group=10), gpu(str(NEIGHBOUR), group=10))) as node:
        with (
            node.kernel.start_vm(NEIGHBOUR),
            pytest.raises(DeviceBusy, match=r"0000:1b:00\.0: a virtual machine has 0000:1c:00\.0 open"),
        ):
            open_it(node)
        assert node.accesses == [0, 0]


def test_a_device_whose_use_cannot_be_told_counts_as_used(node: CcNode) -> None:
    (node.host_folder(GPU) / "enable").unlink()
    (node.host_folder(GPU) / "enable").write_text("what?\n")
    with pytest.raises(DeviceBusy):
        open_it(node)


def test_a_device_that_a_driver_holds_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with CcNode(tmp_path, driver="nvidia") as node:
        with pytest.raises(
            DeviceError, match=f"driver nvidia holds it; bind it first: vfio-manager bind --device {GPU}"
        ):
            open_it(node)
        assert (node.kernel.writes, node.accesses) == ([], [0, 0])


def test_a_device_without_a_driver_can_be_opened(tmp_path: Path) -> None:
    with CcNode(tmp_path, driver=None) as node:
        assert open_it(node) == 0x180000A1


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_field_19_kernel_lockdown_is_named_with_the_remedy(node: CcNode, mode: str) -> None:
    node.kernel.set_lockdown(mode)
    with pytest.raises(Bar0Refused, match=rf"kernel lockdown \({mode}\) forbids .*; boot the host without lockdown"):
        open_it(node)
    assert node.accesses == [0, 0]
    assert node.kernel.writes == [], "the device sleeps, and was not even woken"


def test_a_device_that_left_sysfs_is_gone(node: CcNode) -> None:
    node.kernel.unplug(GPU)
    with pytest.raises(DeviceGone, match=r"0000:1b:00\.0: the device left the bus"):
        open_it(node)


def test_a_device_that_fell_off_the_bus_does_not_answer(node: CcNode) -> None:
    node.kernel.fall_off_bus(GPU)
    with pytest.raises(DeviceError, match=r"its configuration space does not answer \(gone from the bus\)"):
        open_it(node)
    assert node.accesses == [0, 0]
