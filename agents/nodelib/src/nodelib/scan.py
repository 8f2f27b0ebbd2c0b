"""One look at the whole node: what is there becomes an `Inventory`, each device's failure beside it."""

import os
from collections.abc import Iterable
from dataclasses import replace

from nodelib.errors import DeviceError, DeviceGone
from nodelib.files import HostRoot
from nodelib.inventory import NO_CONFIG, DeviceFault, Inventory
from nodelib.iommu import IommuGroup
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.pci import PciAddress, PciDevice
from nodelib.sysfs import Sysfs


def scan(sysfs: Sysfs, host: HostRoot, *, with_config: bool = False, with_locked: bool = False) -> Inventory:
    """NVIDIA's devices and their IOMMU groups as they are now.

    Only NVIDIA's functions and what shares a group with one are read in full; of all others one attribute, so that a
    node with hundreds of functions costs little. *with_config* also asks their configuration spaces, *with_locked* what
    is told under a device's lock only; each takes up to a second where a device hangs. Raises NotSupported where there
    is no /sys.
    """
    faults: list[DeviceFault] = []
    devices = _read_devices(sysfs, _nvidia_addresses(sysfs, faults), faults)
    groups = _groups_of(sysfs, devices.values())
    others = {address for group in groups for address in group.members} - set(devices)
    devices |= _read_devices(sysfs, others, faults)
    ordered = tuple(devices[address] for address in sorted(devices))
    if with_locked:
        ordered = sysfs.with_locked_attributes(ordered)
    faults += [DeviceFault(str(device.address), fault) for device in ordered for fault in device.faults]
    return Inventory(
        devices=ordered,
        groups=groups,
        group_numbers=sysfs.iommu_group_numbers() | {group.number for group in groups},
        vfio_groups=sysfs.vfio_group_nodes(),
        dev_vfio=_dev_vfio(host),
        faults=tuple(dict.fromkeys(faults)),  # one may be met twice, as NVIDIA's and as a group's member
        config={a: answer.state for a, answer in sysfs.config(devices).items()} if with_config else NO_CONFIG,
    )


def _nvidia_addresses(sysfs: Sysfs, faults: list[DeviceFault]) -> list[PciAddress]:
    found: list[PciAddress] = []
    for name in sorted(sysfs.pci_folder_names()):
        try:
            address = PciAddress.parse(name)
            if sysfs.vendor(name) == VENDOR_NVIDIA:
                found.append(address)
        except OSError as error:
            if name in sysfs.pci_folder_names():  # else it left between listing and reading
                faults.append(DeviceFault(name, f"vendor cannot be read ({error.strerror})"))
        except ValueError as error:
            faults.append(DeviceFault(name, f"not understood ({error})"))
    return found


def _read_devices(
    sysfs: Sysfs, addresses: Iterable[PciAddress], faults: list[DeviceFault]
) -> dict[PciAddress, PciDevice]:
    devices: dict[PciAddress, PciDevice] = {}
    for address in addresses:
        try:
            devices[address] = sysfs.pci_device(address)
        except DeviceGone:
            continue  # it left just now; if it comes back, the next look finds it
        except DeviceError as error:
            faults.append(DeviceFault(str(address), error.reason))
    return devices


def _groups_of(sysfs: Sysfs, devices: Iterable[PciDevice]) -> tuple[IommuGroup, ...]:
    """The groups of *devices*, each with those that link to it: a device leaves its group's folder first."""
    linked: dict[int, set[PciAddress]] = {}
    for device in devices:
        if device.iommu_group is not None:
            linked.setdefault(device.iommu_group, set()).add(device.address)
    groups = (sysfs.iommu_group(number) for number in sorted(linked))
    return tuple(replace(group, members=tuple(sorted(linked[group.number].union(group.members)))) for group in groups)


def _dev_vfio(host: HostRoot) -> frozenset[str] | None:
    if not host.shows_dev:
        return None
    found: set[str] = set()
    for folder, prefix in (("/dev/vfio", ""), ("/dev/vfio/devices", "devices/")):
        try:
            found.update(f"{prefix}{name}" for name in os.listdir(host.resolve(folder)))  # noqa: PTH208 - names alone
        except OSError:
            continue  # no such folder: no such node
    return frozenset(found)
