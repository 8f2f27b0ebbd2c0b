"""Look at the mode of every device, all at once, without disturbing any that is in use."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from cc_manager.errors import DeviceAsleep, UnsupportedDevice
from cc_manager.gpu.access import Access
from cc_manager.gpu.chips import part_of
from cc_manager.mode import ModeBits
from cc_manager.observation import NVIDIA_DRIVER, Observation, Verified
from nodelib.at_once import at_once
from nodelib.errors import DeviceError, DeviceGone
from nodelib.inventory import Inventory, is_in_use
from nodelib.nvidia import is_assignable_kind
from nodelib.pci import PciAddress, PciDevice
from nodelib.problem import Problem


def observe(
    inventory: Inventory,
    access: Access,
    verified: Mapping[PciAddress, Verified],
    *,
    boot_id: str,
    wake: bool,
    knobs: bool,
) -> tuple[Observation, ...]:
    """Every GPU and NVSwitch with its mode: read from idle ones, remembered (*verified*) for those in use.

    *wake*: whether sleeping devices may be woken for it. *knobs*: whether the firmware is asked for what is staged.
    """
    chosen = [
        _begin(device, inventory, verified, boot_id) for device in inventory.devices if is_assignable_kind(device)
    ]
    return at_once(lambda one: _look(one, access, wake=wake, knobs=knobs), chosen)


def _begin(
    device: PciDevice, inventory: Inventory, verified: Mapping[PciAddress, Verified], boot_id: str
) -> Observation:
    try:
        part = part_of(device)
    except UnsupportedDevice as error:
        return Observation(device, None, in_use=False, problem=Problem("unsupported", error.reason))
    if device.driver is not None and not device.is_on_vfio_driver:
        return Observation(device, part, in_use=False, problem=_not_bound(device))
    if not is_in_use(inventory, device):
        return Observation(device, part, in_use=False)
    known = verified.get(device.address)
    if known is None or known.boot_id != boot_id:
        return Observation(device, part, in_use=True)
    active = ModeBits.of(known.mode)
    return Observation(device, part, in_use=True, active=active, source="label", verified_at=known.time)


def _not_bound(device: PciDevice) -> Problem:
    text = f"driver {device.driver} holds it"
    if device.iommu_group is None:
        return Problem(
            "no-iommu",
            f"{text}, and it is in no IOMMU group, so vfio-manager cannot take it from there",
            "switch the IOMMU on first, in the firmware and on Intel with intel_iommu=on",
        )
    return Problem("not-bound", text, f"bind it first: vfio-manager bind --device {device.address}")


def _look(one: Observation, access: Access, *, wake: bool, knobs: bool) -> Observation:
    if one.problem or one.in_use or one.part is None:
        return one
    try:
        with access.opened(one.address, one.part, wake=wake) as device:
            if wake:
                device.prepare()
                device.wait_for_boot()
            active, is_decoupled = device.active_mode(), device.is_decoupled()
            staged = device.staged_mode() if knobs else None
            decoupler = device.staged_decoupler() if knobs else None
    except DeviceError as error:
        return replace(one, problem=_problem_of(error, one, access))
    return replace(
        one, active=active, staged=staged, staged_decoupler=decoupler, is_decoupled=is_decoupled, source="BAR0"
    )


def peek(observations: Iterable[Observation], access: Access) -> tuple[Observation, ...]:
    """*observations* with the mode of GPUs that the NVIDIA driver holds, where their registers may be read.

    For `status` alone: such a device is never staged or reset.
    """

    def look(one: Observation) -> Observation:
        if one.part is None or one.device.driver != NVIDIA_DRIVER:
            return one
        with suppress(DeviceError), access.peeked(one.address, one.part) as device:
            return replace(one, active=device.active_mode(), source="BAR0")
        return one  # it keeps the problem that it has: somebody else's driver

    return at_once(look, tuple(observations))


def _problem_of(error: DeviceError, one: Observation, access: Access) -> Problem:
    match error:
        case DeviceGone() if access.is_off_bus(one.address):
            return Problem("off-bus", error.reason)
        case UnsupportedDevice():  # only its registers told: it has no mode, and no reset will change that
            return Problem("unsupported", error.reason)
        case DeviceAsleep():
            return Problem("asleep", error.reason)
        case _:
            return Problem("unreadable", error.reason)
