"""BAR0 and configuration space of the simulated kernel, as far as user space may touch them."""

import errno
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib.errors import DeviceError
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs
from tests.fakes.gpu import Chip, EmulatedDevice
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu
from tests.fakes.polling import config_answer

GPU = PciAddress.parse("0000:3b:00.0")
ALL_ONES = 0xFFFFFFFF
COMMAND = 4


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(gpu(str(GPU), group=65), driver="vfio-pci")
        kernel.attach(GPU, EmulatedDevice(Chip.GH100))
        yield kernel


@pytest.fixture
def sysfs(kernel: FakeKernel) -> Sysfs:
    return kernel.sysfs()


def identity(kernel: FakeKernel, sysfs: Sysfs) -> int:
    return kernel.map_bar0(sysfs.resource_path(GPU))[0]


def test_bar0_reads_all_ones_in_d3_until_the_device_is_woken(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # facts/fsp-and-cc-mode.md, section 7
    assert identity(kernel, sysfs) == ALL_ONES
    sysfs.keep_awake(GPU)
    assert identity(kernel, sysfs) == Chip.GH100.value.identity


def test_bar0_reads_all_ones_while_memory_decoding_is_off(tmp_path: Path) -> None:
    # facts/fsp-and-cc-mode.md, section 5
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(replace(gpu(str(GPU)), memory_decoding=False))
        kernel.attach(GPU, EmulatedDevice(Chip.GH100))
        sysfs = kernel.sysfs()
        assert identity(kernel, sysfs) == ALL_ONES
        (command,) = struct.unpack_from("<H", config_answer(sysfs, GPU).header, COMMAND)
        sysfs.write_command(GPU, command | 2)
        assert identity(kernel, sysfs) == Chip.GH100.value.identity
        assert struct.unpack_from("<H", config_answer(sysfs, GPU).header, COMMAND) == (command | 2,)


def test_enabling_a_function_without_a_driver_switches_memory_decoding_on(tmp_path: Path) -> None:
    # drivers/pci/setup-res.c, pci_enable_resources; facts/fsp-and-cc-mode.md, section 5
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(replace(gpu(str(GPU)), memory_decoding=False))
        kernel.attach(GPU, EmulatedDevice(Chip.GH100))
        assert kernel.write(tmp_path / f"sys/bus/pci/devices/{GPU}/enable", "1") == 0
        assert identity(kernel, kernel.sysfs()) == Chip.GH100.value.identity


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown_forbids_bar0_and_configuration_space(kernel: FakeKernel, sysfs: Sysfs, mode: str) -> None:
    # facts/fsp-and-cc-mode.md, section 5
    assert sysfs.lockdown() is None
    kernel.set_lockdown(mode)
    assert sysfs.lockdown() == mode
    with pytest.raises(PermissionError):
        kernel.map_bar0(sysfs.resource_path(GPU))
    with pytest.raises(DeviceError, match=mode):
        sysfs.write_command(GPU, 6)


def test_bar0_of_a_device_that_a_usual_driver_owns_is_einval(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # facts/fsp-and-cc-mode.md, section 5
    sysfs.unbind(GPU, "vfio-pci", 10)
    assert identity(kernel, sysfs) == Chip.GH100.value.identity
    kernel.load_driver("nvidia")
    with pytest.raises(OSError, match="owns the BAR") as refused:
        kernel.map_bar0(sysfs.resource_path(GPU))
    assert refused.value.errno == errno.EINVAL


def test_bar0_of_a_device_in_use_is_held_against_whoever_maps_it(kernel: FakeKernel, sysfs: Sysfs) -> None:
    with kernel.start_vm(GPU), pytest.raises(OSError, match="owns the BAR"):
        kernel.map_bar0(sysfs.resource_path(GPU))
    assert len(kernel.complaints) == 1


def test_a_mapping_of_a_device_that_leaves_reads_all_ones(kernel: FakeKernel, sysfs: Sysfs) -> None:
    sysfs.keep_awake(GPU)
    words = kernel.map_bar0(sysfs.resource_path(GPU))
    kernel.unplug(GPU)
    assert words[0] == ALL_ONES
    with pytest.raises(FileNotFoundError):
        kernel.map_bar0(sysfs.resource_path(GPU))


def test_bar0_may_be_refused_when_it_is_opened_or_when_it_is_mapped(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # facts/fsp-and-cc-mode.md, section 5: EPERM from open is a sandbox or virtual machine, from mmap lockdown.
    path = sysfs.resource_path(GPU)
    kernel.faults.bar0_open[GPU] = errno.EPERM
    with pytest.raises(PermissionError, match="opening it"):
        kernel.open_bar0(path)
    kernel.faults.bar0_open.clear()
    kernel.faults.bar0_mmap[GPU] = errno.EINVAL
    opened = kernel.open_bar0(path)
    with pytest.raises(OSError, match="mapping it") as refused:
        opened.map()
    assert refused.value.errno == errno.EINVAL


def test_a_write_fails_as_often_as_the_test_says(kernel: FakeKernel, tmp_path: Path) -> None:
    reset = tmp_path / f"sys/bus/pci/devices/{GPU}/reset"
    kernel.faults.fail_next[GPU, "reset"] = [errno.ENOTTY, 0, errno.ENODEV]
    assert [kernel.write(reset, "1") for _ in range(4)] == [errno.ENOTTY, 0, errno.ENODEV, 0]


def test_a_write_without_a_child_process_is_answered_as_one_with(kernel: FakeKernel, tmp_path: Path) -> None:
    folder = tmp_path / f"sys/bus/pci/devices/{GPU}"
    kernel.faults.fail[GPU, "reset"] = errno.ENOTTY
    told: list[tuple[str, int | None]] = []
    for writer in (kernel.writer(), kernel.direct_writer()):
        writer.write(GPU, folder / "power/control", "on")
        for path, value in ((folder / "reset", "1"), (folder / "power/control", "never"), (folder / "vendor", "1")):
            with pytest.raises(OSError, match=r"\w") as refused:
                writer.write(GPU, path, value)
            told.append((path.name, refused.value.errno))
        kernel.set_lockdown("integrity")
        with pytest.raises(PermissionError):
            writer.write_at(GPU, folder / "config", COMMAND, b"\6\0")
        kernel.set_lockdown("none")
        writer.write_at(GPU, folder / "config", COMMAND, b"\6\0")
    assert told[:3] == told[3:] == [("reset", errno.ENOTTY), ("control", errno.EINVAL), ("vendor", errno.EACCES)]
