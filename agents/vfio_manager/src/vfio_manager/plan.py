"""Decide which functions go to which driver. Nothing here touches the node."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodelib.held import HeldBy
from nodelib.inventory import Inventory, is_in_use
from nodelib.iommu import blocks_group
from nodelib.nvidia import Kind, kind_of
from nodelib.pci import PciAddress, PciDevice, same_driver
from nodelib.problem import Problem, Refusal
from vfio_manager.modalias import DriverChoice
from vfio_manager.selection import targets
from vfio_manager.settings import Settings
from vfio_manager.steps import (
    Bind,
    CheckIdle,
    ForbidD3cold,
    KeepAwake,
    LoadModule,
    Probe,
    SetDriverOverride,
    Step,
    Unbind,
)

NOBODY: Mapping[PciAddress, HeldBy] = MappingProxyType({})
NO_MODULE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """The steps of one function, which do not depend on any other's."""

    address: PciAddress
    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = ()
    """What puts the old driver back if a step fails."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything one round does, and everything it leaves alone with the reason."""

    devices: tuple[DevicePlan, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    modules: tuple[LoadModule, ...] = ()
    """Before all else."""

    @property
    def device_steps(self) -> tuple[Step, ...]:
        return tuple(step for device in self.devices for step in device.steps)

    @property
    def steps(self) -> tuple[LoadModule | Step, ...]:
        """All that is done, in order."""
        return (*self.modules, *self.device_steps)


def plan_bind(
    inventory: Inventory,
    settings: Settings,
    choice: DriverChoice,
    held: Mapping[PciAddress, HeldBy] = NOBODY,
    unloadable: Mapping[str, str] = NO_MODULE,
) -> Plan:
    """Steps that leave every target on its VFIO driver, awake; none for those already there.

    *held*: who has devices open, as far as was looked. *unloadable*: modules that would not load, and why.
    """
    devices: list[DevicePlan] = []
    refusals: list[Refusal] = []
    modules: set[str] = set()
    wanted = targets(inventory, settings)
    for device in wanted:
        driver, module = choice.of(device), choice.module_of(device)
        steps = _bind_steps(device, driver, in_use=is_in_use(inventory, device))
        if not steps:
            continue
        problem = _why_not(device, inventory, settings, held)
        if problem is None and module in unloadable:
            problem = Problem("driver-not-loaded", unloadable[module])
        if problem:
            refusals.append(Refusal(device.address, problem))
            continue
        if not choice.is_loaded(driver):
            modules.add(module)
        devices.append(DevicePlan(device.address, steps, _undo_steps(device)))
    refusals += _left_members(inventory, wanted)
    return Plan(tuple(devices), tuple(refusals), tuple(LoadModule(module) for module in sorted(modules)))


def plan_release(
    inventory: Inventory,
    settings: Settings,
    held: Mapping[PciAddress, HeldBy] = NOBODY,
    *,
    probe: bool = True,
) -> Plan:
    """Steps that give every idle target on a VFIO driver back to the driver that the kernel chooses.

    Without *probe* it is left with no driver and no override.
    """
    devices: list[DevicePlan] = []
    refusals: list[Refusal] = []
    for device in targets(inventory, settings):
        if not device.is_on_vfio_driver or device.driver is None:
            continue
        if problem := _why_untouched(device, inventory, settings, held):
            refusals.append(Refusal(device.address, problem))
            continue
        address = device.address
        steps: tuple[Step, ...] = (
            CheckIdle(address),
            SetDriverOverride(address, None),
            Unbind(address, device.driver),
            *([Probe(address)] if probe else []),
        )
        devices.append(DevicePlan(address, steps, _undo_steps(device)))
    return Plan(tuple(devices), tuple(refusals))


def _bind_steps(device: PciDevice, driver: str, *, in_use: bool) -> tuple[Step, ...]:
    address = device.address
    power: list[Step] = [ForbidD3cold(address)] if device.d3cold_allowed else []
    idle: list[Step] = [CheckIdle(address)] if device.is_on_vfio_driver else []
    if same_driver(device.driver, driver):
        if device.power_control not in (None, "on"):
            power.append(KeepAwake(address))
        # A device that a VM has open keeps its power settings too: nothing of it is touched.
        return () if in_use or not power else (*idle, *power)
    steps = idle + power
    if not same_driver(device.driver_override, driver):
        steps.append(SetDriverOverride(address, driver))
    if device.driver is not None:
        steps.append(Unbind(address, device.driver))
    steps.append(Bind(address, driver))
    if device.power_control is not None:
        steps.append(KeepAwake(address))
    return tuple(steps)


def _undo_steps(device: PciDevice) -> tuple[Step, ...]:
    """Back to the driver and override that the device had."""
    override = SetDriverOverride(device.address, device.driver_override)
    if device.driver is None:
        return (override,)
    back = Bind(device.address, device.driver)
    if device.driver_override in (None, device.driver):
        return (override, back)
    # A run that was killed left our override on a device that its old driver still has. The kernel lets no driver
    # but the override's bind (pci_match_device), so it is lifted for the old one's return.
    return (SetDriverOverride(device.address, None), back, override)


def _why_not(
    device: PciDevice, inventory: Inventory, settings: Settings, held: Mapping[PciAddress, HeldBy]
) -> Problem | None:
    """Why *device* must not be bound now; None if it may."""
    if device.iommu_group is None:
        return Problem(
            "no-iommu",
            "it is in no IOMMU group, and a VFIO driver refuses it (EINVAL)",
            "switch the IOMMU on in the firmware, and on Intel boot with intel_iommu=on",
        )
    return _why_untouched(device, inventory, settings, held)


def _why_untouched(
    device: PciDevice, inventory: Inventory, settings: Settings, held: Mapping[PciAddress, HeldBy]
) -> Problem | None:
    """Why *device* must not be taken from the driver that it is on; None if it may."""
    if device.is_locked:
        return Problem(
            "hung",
            "the kernel holds its lock: a bind, unbind or reset of it does not end",
            "see the kernel log; end whoever uses the device, or reboot the node",
        )
    if device.vf_count:
        return Problem(
            "has-vfs",
            f"{device.vf_count} virtual functions of it are on, which unbinding would pull away",
            f"first write 0 to /sys/bus/pci/devices/{device.address}/sriov_numvfs",
        )
    if any(same_driver(device.driver, driver) for driver in settings.protected_drivers):
        return Problem("protected-driver", f"it is on driver {device.driver}, which --protect-driver keeps")
    by = held.get(device.address, HeldBy())
    if is_in_use(inventory, device):
        return Problem(
            "in-use",
            f"a virtual machine has it, or a function of its IOMMU group {device.iommu_group}, open: {by}",
            "end that virtual machine first",
        )
    if by.holders:
        return Problem("held", f"it is held by {by}, and its driver would wait for that", "end the process first")
    return None


def _left_members(inventory: Inventory, wanted: Iterable[PciDevice]) -> list[Refusal]:
    """Devices that are left alone and thereby keep a target's group from being given away."""
    groups = {device.iommu_group for device in wanted} - {None}
    return [
        Refusal(device.address, _left_member(device))
        for device in inventory.devices
        if device.iommu_group in groups and blocks_group(device) and device not in wanted
    ]


def _left_member(device: PciDevice) -> Problem:
    text = (
        f"it is on driver {device.driver} and shares IOMMU group {device.iommu_group} with a GPU, "
        "which can therefore not be given away"
    )
    if kind_of(device) is Kind.FOREIGN:
        return Problem("foreign-group-member", text, f"free it by hand, or add --allow-group-member {device.address}")
    return Problem("left-group-member", text, "let it be bound too: see --exclude, --nvswitches and --include-vfs")
