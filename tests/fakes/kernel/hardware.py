"""What is plugged in: the identity of a PCI function and its configuration space.

Header layout: PCI Local Bus Specification; offsets as in Linux, include/uapi/linux/pci_regs.h.
"""

import struct
from dataclasses import dataclass

from nodelib.pci import CLASS_HOST_BRIDGE, CLASS_PCI_BRIDGE, PciAddress

CONFIG_BYTES = 4096
COMMAND_OFFSET = 4
COMMAND_MEMORY = 1 << 1
_STATUS_CAPABILITIES = 1 << 4
_PM_CAPABILITY, _PCIE_CAPABILITY = 0x60, 0x78
_PCIE_FLR = 1 << 28


@dataclass(frozen=True, slots=True)
class Hardware:
    """One PCI function as it would be found by a scan of the bus."""

    address: PciAddress
    vendor: int
    device: int
    pci_class: int
    """24 bits: class, subclass, programming interface."""
    parent: PciAddress | None = None
    """The port it sits behind; None: directly on its root bus."""
    iommu_group: int | None = None
    """None where the IOMMU is off."""
    numa_node: int | None = -1
    """None: the attribute is missing, as on kernels without NUMA."""
    subsystem: tuple[int, int] = (0, 0)
    revision: int = 0xA1
    bars: tuple[tuple[int, int], ...] = ((0, 16 << 20),)
    """Number and size in bytes."""
    can_reset: bool = True
    d3cold_allowed: bool | None = True
    """None: the attribute is missing."""
    sleeps_cold: bool = False
    """The platform cuts its power when it sleeps, where `d3cold_allowed` permits."""
    memory_decoding: bool = True
    """What the firmware left in the command register."""
    vf_total: int | None = None
    vf_count: int = 0
    physical_function: PciAddress | None = None

    @property
    def is_bridge(self) -> bool:
        return self.pci_class >> 8 in (CLASS_HOST_BRIDGE, CLASS_PCI_BRIDGE)

    @property
    def has_port_header(self) -> bool:
        return self.pci_class >> 8 == CLASS_PCI_BRIDGE

    @property
    def modalias(self) -> str:
        kind = f"bc{self.pci_class >> 16:02X}sc{self.pci_class >> 8 & 0xFF:02X}i{self.pci_class & 0xFF:02X}"
        return f"pci:v{self.vendor:08X}d{self.device:08X}sv{self.subsystem[0]:08X}sd{self.subsystem[1]:08X}{kind}"


def config_space(hardware: Hardware, *, is_enabled: bool = False) -> bytes:
    """The configuration space: header, power management and PCI Express capabilities, the rest 0."""
    space = bytearray(CONFIG_BYTES)
    command = COMMAND_MEMORY if hardware.memory_decoding or is_enabled else 0
    struct.pack_into("<HHHH", space, 0, hardware.vendor, hardware.device, command, _STATUS_CAPABILITIES)
    space[8] = hardware.revision
    space[9:12] = hardware.pci_class.to_bytes(3, "little")
    space[14] = 1 if hardware.has_port_header else 0
    if not hardware.has_port_header:
        for number, size in hardware.bars:
            struct.pack_into("<Q", space, 0x10 + 4 * number, bar_address(hardware, number, size) | 0xC)
        struct.pack_into("<HH", space, 0x2C, *hardware.subsystem)
    space[0x34] = _PM_CAPABILITY
    struct.pack_into("<BBH", space, _PM_CAPABILITY, 0x01, _PCIE_CAPABILITY, 3)
    struct.pack_into(
        "<BBHI", space, _PCIE_CAPABILITY, 0x10, 0, 2, _PCIE_FLR if hardware.can_reset and not hardware.is_bridge else 0
    )
    return bytes(space)


def bar_address(hardware: Hardware, number: int, size: int) -> int:
    """An address that no other BAR of this kind has, aligned to its size."""
    place = hardware.address
    index = ((place.domain << 8 | place.bus) << 8 | place.device << 3 | place.function) * 8 + number
    return index * max(size, 16 << 20)
