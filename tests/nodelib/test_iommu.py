"""IOMMU groups and whether they can be given away. Field problems 6 and 32."""

import pytest

from nodelib.iommu import IommuGroup, blocks_group, viability_problems
from nodelib.pci import PciAddress, PciDevice
from tests.nodelib.samples import at, audio, bridge, gpu, nic, nvswitch


def group_of(*devices: PciDevice, name: str | None = None) -> tuple[IommuGroup, dict[PciAddress, PciDevice]]:
    return IommuGroup(65, tuple(d.address for d in devices), name), {d.address: d for d in devices}


@pytest.mark.parametrize(
    "device",
    [
        gpu("01", 65),
        gpu("01", 65, driver="nvgrace_gpu_vfio_pci", has_vfio_dev=False),  # before Linux 6.1 only the name tells
        gpu("01", 65, driver=None),
        audio("01.1", 65, driver="pci-stub"),
        audio("01.1", 65, driver="pci_stub"),
        nic("02", 65, driver=None),
        bridge("00", 65),
        bridge("00", 65, pci_class=0x060000, driver="some-bridge"),
        bridge("00", 65, vendor=0x10DE, driver="pcieport"),
    ],
)
def test_an_idle_endpoint_and_any_bridge_are_harmless(device: PciDevice) -> None:
    assert not blocks_group(device)
    assert viability_problems(*group_of(gpu("05", 65), device)) == ()


@pytest.mark.parametrize(
    "device",
    [
        gpu("01", 65, driver="nvidia"),
        audio("01.1", 65, driver="snd_hda_intel"),
        audio("01.2", 65, pci_class=0x0C0330, driver="xhci_hcd"),
        nvswitch("02", 65, driver="nvidia-nvswitch"),  # class 0680 is a bridge to PCI, but an endpoint to VFIO
    ],
)
def test_a_function_of_ours_on_another_driver_holds_the_group_up_and_is_named(device: PciDevice) -> None:
    (problem,) = viability_problems(*group_of(gpu("05", 65), device))
    assert problem.code == "foreign-driver"
    assert f"IOMMU group 65 is held up by {device.address} on driver {device.driver}" in problem.text
    assert problem.remedy == f"run: vfio-manager bind --device {device.address}"


def test_a_foreign_device_is_never_bound_unless_it_is_allowed_by_name() -> None:
    (problem,) = viability_problems(*group_of(gpu("01", 65), nic("02", 65)))
    assert "0000:02:00.0 on driver mlx5_core" in problem.text
    assert "--allow-group-member 0000:02:00.0" in problem.remedy
    assert "vfio-manager bind --device" not in problem.remedy


def test_each_function_that_holds_the_group_up_is_named() -> None:
    devices = (gpu("01", 65, driver="nvidia"), audio("01.1", 65, driver="snd_hda_intel"), nic("02", 65))
    problems = viability_problems(*group_of(*devices))
    assert [str(d.address) in p.text for d, p in zip(devices, problems, strict=True)] == [True, True, True]


def test_a_group_without_an_iommu_is_never_viable() -> None:
    (problem,) = viability_problems(*group_of(gpu("01", 65), name="vfio-noiommu"))
    assert problem.code == "no-iommu-group"
    assert "switch the IOMMU on" in problem.remedy


def test_another_group_name_means_nothing() -> None:
    assert viability_problems(*group_of(gpu("01", 65), name="host1x")) == ()


def test_a_member_that_cannot_be_read_holds_the_group_up() -> None:
    """It may be on any driver."""
    group, devices = group_of(gpu("01", 65))
    (problem,) = viability_problems(IommuGroup(65, (*group.members, at("01.1"))), devices)
    assert problem.code == "member-unreadable"
    assert "0000:01:00.1" in problem.text
    assert "/sys/bus/pci/devices/0000:01:00.1" in problem.remedy
