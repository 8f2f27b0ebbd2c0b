"""Which functions belong on a VFIO driver. Pure."""

from nodelib.inventory import Inventory
from nodelib.nvidia import VENDOR_NVIDIA, Kind, kind_of
from nodelib.pci import PciDevice
from vfio_manager.selector import is_selected
from vfio_manager.settings import Settings, SwitchPolicy


def targets(inventory: Inventory, settings: Settings) -> tuple[PciDevice, ...]:
    """The functions that belong on a VFIO driver.

    Every GPU and every NVSwitch that settings want, all functions of their slots, and NVIDIA's other endpoints in their
    IOMMU groups: a group is given away whole. Foreign members only by name; what is excluded never.
    """
    chosen = [device for device in inventory.devices if _is_wanted(device, settings)]
    slots = {device.address.slot for device in chosen}
    groups = {device.iommu_group for device in chosen} - {None}
    return tuple(
        device for device in inventory.devices if device in chosen or _rides_along(device, slots, groups, settings)
    )


def _is_wanted(device: PciDevice, settings: Settings) -> bool:
    if is_selected(device, settings.exclude):
        return False
    if settings.only:
        return device.address in settings.only
    return (not settings.include or is_selected(device, settings.include)) and _is_wanted_kind(device, settings)


def _is_wanted_kind(device: PciDevice, settings: Settings) -> bool:
    match kind_of(device):
        case Kind.GPU:
            return True
        case Kind.NVSWITCH:
            return _is_wanted_switch(device, settings.nvswitches)
        case Kind.VIRTUAL_FUNCTION:
            return settings.include_vfs
        case _:
            return False


def _is_wanted_switch(device: PciDevice, policy: SwitchPolicy) -> bool:
    if policy is SwitchPolicy.AUTO:
        return device.driver is None or device.is_on_vfio_driver
    return policy is SwitchPolicy.ALWAYS


def _rides_along(
    device: PciDevice, slots: set[tuple[int, int, int]], groups: set[int | None], settings: Settings
) -> bool:
    if is_selected(device, settings.exclude):
        return False
    if device.is_bridge or (device.physical_function is not None and not settings.include_vfs):
        return False
    in_group = device.iommu_group in groups
    if device.vendor != VENDOR_NVIDIA:
        return in_group and device.address in settings.allowed_group_members
    return in_group or device.address.slot in slots
