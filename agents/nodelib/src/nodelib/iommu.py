"""IOMMU groups: the smallest thing that can be given to a virtual machine, and whether it can be.

Viability: Linux, Documentation/driver-api/vfio.rst (groups, devices, and IOMMUs).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nodelib.errors import DeviceError
from nodelib.nvidia import Kind, kind_of
from nodelib.pci import PciAddress, PciDevice, same_driver
from nodelib.problem import Problem

NOIOMMU_NAME = "vfio-noiommu"
"""What the kernel writes into a group's `name` when VFIO runs without an IOMMU: no isolation at all."""


@dataclass(frozen=True, slots=True)
class IommuGroup:
    """One group as /sys/kernel/iommu_groups shows it."""

    number: int
    members: tuple[PciAddress, ...]
    """Every function in it, those included that could not be read otherwise."""
    name: str | None = None

    @property
    def is_noiommu(self) -> bool:
        return self.name == NOIOMMU_NAME


@dataclass(frozen=True, slots=True)
class GroupUse:
    """Who had functions of one IOMMU group open at one moment, just read.

    What a member that could not be read means is for the caller: one that left the bus is in nobody's virtual machine,
    but somebody about to reset or to hand out the group has no answer.
    """

    read: tuple[PciAddress, ...] = ()
    open: tuple[PciAddress, ...] = ()
    """Those of `read` that a virtual machine has open."""
    unread: tuple[DeviceError, ...] = ()
    """Why the others could not be read; DeviceGone for those that vanished in between."""


def blocks_group(device: PciDevice) -> bool:
    """Whether *device* keeps its group from being given away.

    Bridges do not count; an endpoint is harmless on a VFIO driver, on pci-stub, or without any driver.
    """
    if device.is_bridge or device.driver is None:
        return False
    return not (device.is_on_vfio_driver or same_driver(device.driver, "pci-stub"))


def viability_problems(group: IommuGroup, devices: Mapping[PciAddress, PciDevice]) -> tuple[Problem, ...]:
    """Everything that keeps *group* from being given to a VM; empty if it is viable."""
    problems: list[Problem] = []
    if group.is_noiommu:
        problems.append(
            Problem(
                "no-iommu-group",
                f"IOMMU group {group.number} is a no-IOMMU group, which isolates nothing",
                "switch the IOMMU on and unload vfio's enable_unsafe_noiommu_mode",
            )
        )
    for address in group.members:
        device = devices.get(address)
        if device is None:
            problems.append(
                Problem(
                    "member-unreadable",
                    f"{address} shares IOMMU group {group.number} and cannot be read",
                    f"look at /sys/bus/pci/devices/{address}",
                )
            )
        elif blocks_group(device):
            problems.append(_blocked_by(device, group.number))
    return tuple(problems)


def _blocked_by(device: PciDevice, group: int) -> Problem:
    if kind_of(device) is Kind.FOREIGN:
        remedy = (
            "it is no NVIDIA device: free it by hand, or let vfio-manager take it with "
            f"--allow-group-member {device.address}"
        )
    else:
        remedy = f"run: vfio-manager bind --device {device.address}"
    return Problem(
        "foreign-driver",
        f"IOMMU group {group} is held up by {device.address} on driver {device.driver}",
        remedy,
    )
