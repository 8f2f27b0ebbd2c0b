"""Devices that come and go in the simulated kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.errors import DeviceGone
from nodelib.pci import ConfigState, PciAddress
from nodelib.sysfs import Sysfs
from tests.fakes.gpu import Chip, EmulatedDevice
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_AUDIO, gpu, other, port
from tests.fakes.polling import config_answer

PORT = PciAddress.parse("0000:3a:00.0")
GPU = PciAddress.parse("0000:3b:00.0")
AUDIO = PciAddress.parse("0000:3b:00.1")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(port(str(PORT)), driver="pcieport")
        kernel.add_device(gpu(str(GPU), group=65, behind=str(PORT)), driver="vfio-pci")
        kernel.add_device(
            other(str(AUDIO), 0x10DE, 0x10F7, CLASS_AUDIO, group=65, behind=str(PORT)), driver="snd_hda_intel"
        )
        yield kernel


@pytest.fixture
def sysfs(kernel: FakeKernel) -> Sysfs:
    return kernel.sysfs()


def events_of(kernel: FakeKernel) -> list[tuple[str, str, str]]:
    seen: list[tuple[str, str, str]] = []
    kernel.subscribe(lambda event: seen.append((event.action, event.subsystem, event.sys_name)))
    return seen


def test_an_unplugged_device_is_gone_with_all_its_nodes(kernel: FakeKernel, sysfs: Sysfs) -> None:
    seen = events_of(kernel)
    kernel.unplug(GPU)
    with pytest.raises(DeviceGone):
        sysfs.pci_device(GPU)
    assert str(GPU) not in sysfs.pci_folder_names()
    assert sysfs.iommu_group(65).members == (AUDIO,)
    assert sysfs.vfio_group_nodes() == frozenset()
    assert not (kernel.host.root / f"sys/bus/pci/drivers/vfio-pci/{GPU}").is_symlink()
    assert seen == [
        ("remove", "vfio-dev", "vfio0"),
        ("remove", "vfio", "65"),
        ("unbind", "pci", str(GPU)),
        ("remove", "pci", str(GPU)),
    ]


def test_a_group_goes_with_its_last_member(kernel: FakeKernel, sysfs: Sysfs) -> None:
    kernel.unplug(GPU, whole_slot=True)
    assert kernel.addresses == (PORT,)
    assert sysfs.iommu_group_numbers() == frozenset()


def test_what_is_behind_a_port_goes_with_it(kernel: FakeKernel) -> None:
    kernel.unplug(PORT)
    assert kernel.addresses == ()


def test_a_device_that_a_vm_uses_is_given_up_when_it_is_pulled_out(kernel: FakeKernel, sysfs: Sysfs) -> None:
    sysfs.unbind(AUDIO, "snd_hda_intel", 10)
    machine = kernel.start_vm(GPU)
    kernel.unplug(GPU)
    with pytest.raises(DeviceGone):
        sysfs.pci_device(GPU)
    machine.close()


def test_a_device_that_comes_back_is_new_and_goes_to_whichever_driver_takes_it(
    kernel: FakeKernel, sysfs: Sysfs
) -> None:
    # drivers/pci/bus.c, pci_bus_add_device: an override does not survive
    device = EmulatedDevice(Chip.GH100)
    kernel.attach(GPU, device)
    sysfs.set_driver_override(GPU, "vfio-pci")
    kernel.unplug(GPU)
    assert device.gone
    kernel.load_driver("nvidia")
    seen = events_of(kernel)
    kernel.plug_back(GPU)
    found = sysfs.pci_device(GPU)
    assert (found.driver, found.iommu_group) == ("nvidia", 65)
    assert (kernel.host.root / f"sys/bus/pci/devices/{GPU}/driver_override").read_text() == "(null)\n"
    assert not device.gone
    assert seen == [("add", "pci", str(GPU)), ("bind", "pci", str(GPU))]


def test_a_device_that_falls_off_the_bus_stays_in_sysfs_without_an_event(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # DESIGN, section 2; facts/field-problems.md, row 2
    seen = events_of(kernel)
    kernel.fall_off_bus(GPU)
    assert sysfs.pci_device(GPU).driver == "vfio-pci"
    assert config_answer(sysfs, GPU).state is ConfigState.GONE
    assert seen == []


def test_a_removed_device_is_found_again_by_a_rescan_and_an_unplugged_one_is_not(
    kernel: FakeKernel, sysfs: Sysfs
) -> None:
    # drivers/pci/pci-sysfs.c, remove_store and rescan_store
    sys = kernel.host.root / "sys/bus/pci"
    assert kernel.write(sys / f"devices/{AUDIO}/remove", "1") == 0
    kernel.unplug(GPU)
    assert str(GPU) not in sysfs.pci_folder_names()
    assert kernel.write(sys / "rescan", "1") == 0
    assert kernel.addresses == (PORT, AUDIO)
    assert sysfs.pci_device(AUDIO).driver == "snd_hda_intel"
