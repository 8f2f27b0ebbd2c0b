"""What simulated nodes are made of: PCI functions with the ids and attributes that matter to the agents."""

from collections.abc import Iterable
from dataclasses import replace

from nodelib.nvidia import CLASS_3D, CLASS_NVSWITCH, VENDOR_NVIDIA
from nodelib.pci import PciAddress
from tests.fakes.kernel import Hardware

H100_SXM, H100_PCIE, L40S, B200, GH200, RTX_PRO_6000 = 0x2330, 0x2331, 0x26B9, 0x2901, 0x2342, 0x2BB5
NVSWITCH_2, NVSWITCH_3 = 0x1AF1, 0x22A3
INTEL, BROADCOM, MELLANOX = 0x8086, 0x1000, 0x15B3
CLASS_HOST_BRIDGE, CLASS_PORT, CLASS_NIC, CLASS_NVME, CLASS_OTHER = 0x060000, 0x060400, 0x020000, 0x010802, 0x088000
CLASS_AUDIO, CLASS_USB, CLASS_UCSI = 0x040300, 0x0C0330, 0x0C8000
_MIB = 1 << 20


def gpu(
    address: str,
    device: int = H100_SXM,
    *,
    group: int | None = None,
    behind: str | None = None,
    numa_node: int | None = -1,
) -> Hardware:
    return Hardware(
        PciAddress.parse(address),
        VENDOR_NVIDIA,
        device,
        CLASS_3D,
        iommu_group=group,
        parent=_parse(behind),
        numa_node=numa_node,
        subsystem=(VENDOR_NVIDIA, 0x16C1),
        bars=((0, 16 * _MIB), (2, 128 << 30), (4, 32 * _MIB)),
        vf_total=16,
    )


def nvswitch(
    address: str, *, group: int | None = None, behind: str | None = None, numa_node: int | None = -1
) -> Hardware:
    """An NVSwitch of the third generation."""
    return replace(
        gpu(address, NVSWITCH_3, group=group, behind=behind, numa_node=numa_node),
        pci_class=CLASS_NVSWITCH,
        bars=((0, 32 * _MIB),),
        vf_total=None,
    )


def other(
    address: str,
    vendor: int,
    device: int,
    pci_class: int,
    *,
    group: int | None = None,
    behind: str | None = None,
    numa_node: int | None = -1,
    can_reset: bool = True,
) -> Hardware:
    """Any other function."""
    return Hardware(
        PciAddress.parse(address),
        vendor,
        device,
        pci_class,
        iommu_group=group,
        parent=_parse(behind),
        numa_node=numa_node,
        can_reset=can_reset,
    )


def port(address: str, *, behind: str | None = None, numa_node: int | None = -1) -> Hardware:
    """A PCIe port, of a root complex or of a switch."""
    vendor, device = (BROADCOM, 0xC030) if behind else (INTEL, 0x352A)
    part = other(address, vendor, device, CLASS_PORT, behind=behind, numa_node=numa_node, can_reset=False)
    return replace(part, bars=(), d3cold_allowed=True)


def host_bridge(address: str, *, numa_node: int | None = -1) -> Hardware:
    part = other(address, INTEL, 0x09A2, CLASS_HOST_BRIDGE, numa_node=numa_node, can_reset=False)
    return replace(part, bars=(), d3cold_allowed=None)


def in_group(number: int, *functions: Hardware) -> list[Hardware]:
    return [replace(function, iommu_group=number) for function in functions]


def each_in_its_own_group(functions: Iterable[Hardware]) -> list[Hardware]:
    """Groups numbered from 0 in the order of the bus."""
    ordered = sorted(functions, key=lambda function: function.address)
    return [replace(function, iommu_group=number) for number, function in enumerate(ordered)]


def _parse(address: str | None) -> PciAddress | None:
    return None if address is None else PciAddress.parse(address)
