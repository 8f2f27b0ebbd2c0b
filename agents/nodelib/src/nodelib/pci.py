"""PCI addresses and functions as plain values.

The ids and attributes are those of sysfs (Linux, Documentation/ABI/testing/sysfs-bus-pci).
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Self

_ADDRESS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)

CLASS_HOST_BRIDGE = 0x0600
CLASS_PCI_BRIDGE = 0x0604
"""PCIe ports show this class; both bridge classes are left out of viability."""


@dataclass(frozen=True, order=True, slots=True)
class PciAddress:
    """Where one PCI function sits: domain, bus, device, function. Ordered as the bus is."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that *text* spells in full, as sysfs (`0000:3b:00.0`) or nvidia-smi (`00000000:3B:00.0`) do.

        Raises ValueError for anything less: a part of an address never stands for a device.
        """
        if not (match := _ADDRESS.fullmatch(text)):
            raise ValueError(
                f"{text!r} is not a PCI address: write domain:bus:device.function in full, as in 0000:3b:00.0"
            )
        return cls(*(int(part, 16) for part in match.groups()))

    @property
    def slot(self) -> tuple[int, int, int]:
        """What all functions of one card share."""
        return (self.domain, self.bus, self.device)

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function:x}"


class ConfigState(Enum):
    """What a device's configuration space said when it was last asked."""

    UNREAD = "not asked"
    ANSWERS = "answers"
    GONE = "gone from the bus"  # reads as all ones
    HUNG = "resetting or hung"  # no answer within a second
    UNREADABLE = "cannot be read"


@dataclass(frozen=True, slots=True)
class PciDevice:
    """One PCI function, as sysfs shows it at one moment."""

    address: PciAddress
    vendor: int
    device: int
    pci_class: int
    """24 bits: class, subclass, programming interface."""
    name: str | None = None
    """NVIDIA's model name in the PCI id database; None where it has none, and for other vendors."""
    driver: str | None = None
    driver_override: str | None = None
    """None also where it was not asked for."""
    iommu_group: int | None = None
    pcie_root: str | None = None
    """The root bus that it sits below, as sysfs names it (`pci0000:15`): what shares one is near each other."""
    numa_node: int | None = None
    """None where the kernel gives no hint (-1, or no attribute at all)."""
    enable: int | None = 0
    """sysfs `enable`: how often the function is enabled; None where it could not be read."""
    has_vfio_dev: bool = False
    """The folder `vfio-dev/` is there: some VFIO driver holds the function (Linux 6.1 and later)."""
    vfio_cdev: str | None = None
    """`vfioN` where the character device /dev/vfio/devices/vfioN exists."""
    physical_function: PciAddress | None = None
    """For a virtual function (SR-IOV), the function it belongs to."""
    vf_count: int = 0
    """How many virtual functions are switched on; 0 also where it was not asked for."""
    is_locked: bool = False
    """The kernel did not tell `driver_override`: a bind, unbind or reset that does not end holds the device's lock."""
    power_state: str | None = None
    power_control: str | None = None
    d3cold_allowed: bool | None = None
    """None where the attribute does not exist."""
    modalias: str = ""
    faults: tuple[str, ...] = ()
    """What could not be read or made no sense; the fields concerned hold their default."""

    @property
    def is_bridge(self) -> bool:
        return self.pci_class >> 8 in (CLASS_HOST_BRIDGE, CLASS_PCI_BRIDGE)

    @property
    def is_on_vfio_driver(self) -> bool:
        """Whether a VFIO driver (vfio-pci or a variant of it) holds the function.

        `vfio-dev/` is the kernel's own sign since 6.1; before, only the driver's name tells.
        """
        return self.has_vfio_dev or (self.driver is not None and is_vfio_driver(self.driver))

    @property
    def is_open(self) -> bool:
        """Whether a virtual machine has the function open.

        VFIO enables a function when it is opened and disables it at close, so sysfs `enable` tells without opening
        anything (seen on Linux 6.12). On any other driver it is no sign; without a driver it means that an unbind waits
        for the one who has it open (drivers/base/dd.c takes the link away first). What cannot be read counts as open.
        """
        return self.enable != 0 and not self.is_bridge and (self.is_on_vfio_driver or self.driver is None)

    @property
    def is_asleep(self) -> bool:
        """In D3: its BARs read as all ones until somebody wakes it."""
        return (self.power_state or "").startswith("D3")


def is_vfio_driver(driver: str) -> bool:
    """Whether a driver of this name is vfio-pci or one of its variants, judged by the name alone."""
    return driver.replace("-", "_").endswith("vfio_pci")


def same_driver(one: str | None, other: str | None) -> bool:
    """Whether two names mean one driver: modules are spelt with `_` where drivers may have `-`."""
    if one is None or other is None:
        return one is other
    return one.replace("-", "_") == other.replace("-", "_")
