"""What vfio-manager's verbs show: the same facts as a table for people and as fields for programs."""

from collections.abc import Mapping

from nodelib.held import HeldBy
from nodelib.inventory import Inventory, is_in_use
from nodelib.iommu import viability_problems
from nodelib.nvidia import VENDOR_NVIDIA, kind_of, model_of
from nodelib.output import Report, grouped
from nodelib.pci import PciAddress, PciDevice
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import Plan

STATUS_COLUMNS = {
    "address": "ADDRESS",
    "kind": "KIND",
    "model": "MODEL",
    "driver": "DRIVER",
    "iommu_group": "GROUP",
    "numa_node": "NUMA",
    "in_use": "USED",
    "state": "STATE",
}


def status(inventory: Inventory, plan: Plan, choice: DriverChoice, users: Mapping[PciAddress, HeldBy]) -> Report:
    """Every NVIDIA function, and whatever shares an IOMMU group with one, as it is."""
    refused = {refusal.address: str(refusal.problem) for refusal in plan.refusals}
    planned = {device.address for device in plan.devices}
    rows = [_row(device, inventory, choice) for device in inventory.devices]
    for row, device in zip(rows, inventory.devices, strict=True):
        row["state"] = _state(device, device.address in planned, device.address in refused)
        row["reason"] = refused.get(device.address)
        row["held_by"] = [str(holder) for holder in users.get(device.address, HeldBy()).holders]
    reasons: list[tuple[object, str]] = [(refusal.address, str(refusal.problem)) for refusal in plan.refusals]
    reasons += [
        (device.address, f"in use: {users.get(device.address, HeldBy())}")
        for device in inventory.devices
        if is_in_use(inventory, device) and device.address not in refused and not device.is_bridge
    ]
    reasons += [(address, "`vfio-manager bind` would put it on its VFIO driver") for address in sorted(planned)]
    reasons += [(fault.address, fault.reason) for fault in inventory.faults]
    return Report(tuple(rows), STATUS_COLUMNS, grouped(reasons), empty="no NVIDIA device on this node")


def plan(plan: Plan) -> Report:
    """The steps in order, and what is left alone with the reason."""
    rows = [{"address": str(device.address), "action": str(step)} for device in plan.devices for step in device.steps]
    rows += [{"address": str(refusal.address), "action": f"leave {refusal.address} alone"} for refusal in plan.refusals]
    notes = grouped((refusal.address, str(refusal.problem)) for refusal in plan.refusals)
    return Report(tuple(rows), {"action": "ACTION"}, notes, empty="nothing to do")


def _row(device: PciDevice, inventory: Inventory, choice: DriverChoice) -> dict[str, object]:
    group = inventory.group(device.iommu_group)
    problems = viability_problems(group, inventory.by_address) if group else ()
    nvidia = device.vendor == VENDOR_NVIDIA
    return {
        "address": str(device.address),
        "kind": kind_of(device).value,
        "model": model_of(device) if nvidia else f"{device.vendor:04x}:{device.device:04x}",
        "class": f"0x{device.pci_class:06x}",
        "driver": device.driver,
        "wanted_driver": choice.of(device) if nvidia and not device.is_bridge else None,
        "iommu_group": device.iommu_group,
        "group_members": [str(address) for address in group.members] if group else [],
        "group_viable": bool(group) and not problems,
        "numa_node": device.numa_node,
        "in_use": is_in_use(inventory, device),
        "power_state": device.power_state,
    }


def _state(device: PciDevice, planned: bool, refused: bool) -> str:
    if refused:
        return "blocked"
    if planned:
        return "to do" if not device.is_on_vfio_driver else "to mend"
    return "bound" if device.is_on_vfio_driver else "left"
