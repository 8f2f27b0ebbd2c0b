"""What one look at the node found: frozen, complete, with each device's failure beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nodelib.iommu import IommuGroup
from nodelib.nvidia import gpus, is_assignable_kind, nvswitches
from nodelib.pci import ConfigState, PciAddress, PciDevice

NO_CONFIG: Mapping[PciAddress, ConfigState] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DeviceFault:
    """A device folder that could not be understood."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Inventory:
    """NVIDIA's functions and all that shares an IOMMU group with one, in the order of the bus."""

    devices: tuple[PciDevice, ...] = ()
    groups: tuple[IommuGroup, ...] = ()
    """The groups that hold one of `devices`."""
    group_numbers: frozenset[int] = frozenset()
    """Every IOMMU group on the node."""
    vfio_groups: frozenset[int] = frozenset()
    """Groups with a VFIO node in /sys/class/vfio."""
    dev_vfio: frozenset[str] | None = None
    """Names below the host's /dev/vfio (`65`, `devices/vfio3`); None where the host's /dev is not to be seen."""
    faults: tuple[DeviceFault, ...] = ()
    config: Mapping[PciAddress, ConfigState] = field(default_factory=lambda: NO_CONFIG)
    """What configuration spaces answered; a device that was not asked is not in it."""
    absent: tuple[PciDevice, ...] = ()
    """GPUs and NVSwitches that an earlier look of this process found and this one did not."""

    @property
    def by_address(self) -> dict[PciAddress, PciDevice]:
        return {device.address: device for device in self.devices}

    def group(self, number: int | None) -> IommuGroup | None:
        return next((group for group in self.groups if group.number == number), None)

    def members_of(self, group: IommuGroup) -> tuple[PciDevice, ...]:
        """The members of *group* that could be read."""
        devices = self.by_address
        return tuple(devices[address] for address in group.members if address in devices)

    @property
    def gpus(self) -> tuple[PciDevice, ...]:
        return gpus(self.devices)

    @property
    def nvswitches(self) -> tuple[PciDevice, ...]:
        return nvswitches(self.devices)

    def remembering(self, earlier: "Inventory") -> "Inventory":
        """This look, with what *earlier* saw and is not there now as `absent`.

        A device that fell off the bus leaves no trace in sysfs, yet its name must not pass to another while a pod
        may still hold it; this is the only thing a daemon carries from round to round. A device that is there and
        has lost its group is leaving: the kernel removes the group before the device.
        """
        seen = (d for d in (*earlier.devices, *earlier.absent) if is_assignable_kind(d))
        known = {d.address: d for d in sorted(seen, key=lambda d: d.iommu_group is not None)}  # with its group, if any
        here = self.by_address
        gone = (
            d
            for a, d in sorted(known.items())
            if a not in here or (d.iommu_group is not None and here[a].iommu_group is None)
        )
        return replace(self, absent=tuple(gone))


def is_in_use(inventory: Inventory, device: PciDevice) -> bool:
    """Whether a VM has *device*, or a function that shares its IOMMU group, open."""
    group = inventory.group(device.iommu_group)
    members = inventory.members_of(group) if group else (device,)
    return any(member.is_open for member in members)
