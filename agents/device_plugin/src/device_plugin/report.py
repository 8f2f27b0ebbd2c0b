"""What the verbs show: each device as it would be advertised, each GPU that is left out, and what would be done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from device_plugin.inventory import Devices, summary
from device_plugin.outside import Planned
from nodelib.inventory import DeviceFault, Inventory
from nodelib.names import ResourceName
from nodelib.nvidia import model_of
from nodelib.output import Report, grouped
from nodelib.pci import PciDevice
from nodelib.problem import Problem
from nodelib.vfio import AssignableDevice, without_group

COLUMNS = {
    "id": "ID",
    "resource": "RESOURCE",
    "address": "ADDRESS",
    "model": "MODEL",
    "numa_node": "NUMA",
    "health": "HEALTH",
    "in_use": "USED",
}
WIDTH = 80
"""Of the table; a long model name is left to the other forms."""

Row = dict[str, object]


def for_programs(devices: Devices, inventory: Inventory) -> Report:
    """Everything, whole."""
    rows = [_advertised(device) for device in devices]
    rows += [_left_out(device, problem) for device, problem in without_group(inventory)]
    rows += [_unreadable(fault) for fault in _unread(inventory)]
    return Report(tuple(rows), COLUMNS)


def for_people(devices: Devices, inventory: Inventory) -> Report:
    """The same, short enough for a terminal, and the reasons as sentences below."""
    rows = tuple(_short(row) for row in for_programs(devices, inventory).rows)
    notes = [
        *grouped((device.id, str(problem)) for device in devices for problem in device.problems),
        *grouped((device.address, f"left out: {problem}") for device, problem in without_group(inventory)),
        *(str(fault) for fault in inventory.faults),
    ]
    columns = COLUMNS if _width(rows) <= WIDTH else {k: v for k, v in COLUMNS.items() if k != "model"}
    return Report(rows, columns, tuple(notes), empty="no NVIDIA GPU or NVSwitch on this node")


@dataclass(frozen=True, slots=True)
class Life:
    """Who is there for the devices now."""

    served: Mapping[ResourceName, bool]
    """Whether a plugin answers for each resource."""
    kubelet_socket: str
    is_there: bool
    """Whether the kubelet listens there."""


def status_for_programs(devices: Devices, inventory: Inventory, life: Life) -> Report:
    """The rows of `list`, each with whether its resource is `served`."""
    served = {str(resource): is_served for resource, is_served in life.served.items()}
    listed = for_programs(devices, inventory)
    return replace(listed, rows=tuple({**row, "served": served.get(str(row["resource"]))} for row in listed.rows))


def status_for_people(devices: Devices, inventory: Inventory, life: Life) -> Report:
    """The table of `list`, and below it who is there."""
    listed = for_people(devices, inventory)
    notes = [
        f"{resource}: {summary(tuple(d for d in devices if d.resource == resource))}; "
        + ("a plugin serves it" if is_served else "no plugin serves it: start `device-plugin run`, or look at its log")
        for resource, is_served in life.served.items()
    ]
    there = "listens" if life.is_there else "does not listen"
    return replace(listed, notes=(*notes, f"the kubelet {there} on {life.kubelet_socket}", *listed.notes))


def plan(planned: Planned) -> Report:
    """The steps in order, and what would be waited for."""
    rows: list[Row] = [{"action": str(step), "waits_for": None, "reason": None} for step in planned.steps]
    rows += [
        {"action": f"wait because of {about}", "waits_for": about, "reason": reason}
        for about, reason in planned.waiting
    ]
    notes = tuple(f"{about}: {reason}" for about, reason in planned.waiting)
    return Report(tuple(rows), {"action": "ACTION"}, notes, empty="nothing to do: there is no device to advertise")


def _advertised(device: AssignableDevice) -> Row:
    return {
        "id": device.id,
        "resource": str(device.resource),
        "advertised": True,
        "addresses": [str(address) for address in device.addresses],
        "models": [model_of(function) for function in device.functions],
        "nodes": list(device.allocate_nodes),
        "numa_node": device.numa_node,
        "pcie_root": device.pcie_root,
        "health": "healthy" if device.is_healthy else "unhealthy",
        "in_use": device.in_use,
        **_reasons(device.problems),
    }


def _left_out(device: PciDevice, problem: Problem) -> Row:
    return {
        "id": None,
        "resource": None,
        "advertised": False,
        "addresses": [str(device.address)],
        "models": [model_of(device)],
        "nodes": [],
        "numa_node": device.numa_node,
        "pcie_root": device.pcie_root,
        "health": None,
        "in_use": None,
        **_reasons([problem]),
    }


def _unreadable(fault: DeviceFault) -> Row:
    """A function of which nothing is known but where it is: it may be a GPU."""
    return {
        "id": None,
        "resource": None,
        "advertised": False,
        "addresses": [fault.address],
        "models": [],
        "nodes": [],
        "numa_node": None,
        "pcie_root": None,
        "health": None,
        "in_use": None,
        **_reasons([Problem("unreadable", fault.reason, f"look at /sys/bus/pci/devices/{fault.address}")]),
    }


def _reasons(problems: Iterable[Problem]) -> Row:
    problems = tuple(problems)
    return {
        "codes": [problem.code for problem in problems],
        "reasons": [problem.text for problem in problems],
        "remedies": [problem.remedy for problem in problems],
    }


def _unread(inventory: Inventory) -> list[DeviceFault]:
    known = {str(device.address) for device in inventory.devices}
    return [fault for fault in inventory.faults if fault.address not in known]


def _short(row: Mapping[str, object]) -> Row:
    health = row["health"] if row["advertised"] else "left out"
    resource = str(row["resource"] or "").partition("/")[2]
    return {
        **row,
        "resource": resource,
        "address": _first(row["addresses"]),
        "model": _first(row["models"]),
        "health": health,
    }


def _first(values: object) -> str:
    """The first of several, and how many more there are."""
    if not isinstance(values, list) or not values:
        return ""
    return str(values[0]) if len(values) == 1 else f"{values[0]} +{len(values) - 1}"


def _width(rows: Iterable[Mapping[str, object]]) -> int:
    """How wide a table of *rows* would be, two blanks between columns."""
    cells = [{key: str(row[key]) for key in COLUMNS} for row in rows] + [dict(COLUMNS)]
    return sum(max(len(line[key]) for line in cells) for key in COLUMNS) + 2 * (len(COLUMNS) - 1)
