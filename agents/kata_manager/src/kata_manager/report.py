"""What the verbs show: each name, what it stands for, and what is in the way; a plan's steps."""

from collections.abc import Iterable

from kata_manager.plan import LoadModule, Plan
from nodelib.output import Report, grouped
from nodelib.spec_files import Resolution
from nodelib.spec_plan import RemoveSpec, WriteSpec
from nodelib.vfio import AssignableDevice

NAME_COLUMNS = {"name": "CDI NAME", "further_names": "ALSO", "nodes": "DEVICE NODES", "listed": "LISTED"}
STATUS_COLUMNS = {"name": "CDI NAME", "further_names": "ALSO", "nodes": "DEVICE NODES", "state": "STATE"}
PLAN_COLUMNS = {"step": "STEP", "what": "WHAT"}


def names(devices: Iterable[AssignableDevice], left_out: Iterable[str]) -> Report:
    """One row per device, listed in a spec or not; the reasons below."""
    devices = tuple(devices)
    rows = tuple({**_named(device), "listed": device.is_resolvable, "reasons": _reasons(device)} for device in devices)
    return Report(
        rows,
        NAME_COLUMNS,
        (*left_out, *grouped(_all_reasons(devices))),
        empty="no device can be named: no IOMMU group holds a GPU",
    )


def status(devices: Iterable[AssignableDevice], resolution: Resolution, plan: Plan, left_out: Iterable[str]) -> Report:
    """One row per device with what its name comes to now; below them reasons, problems and what is to be done."""
    devices = tuple(devices)
    rows = []
    for device in devices:
        name = f"{device.resource}={device.id}"
        file = resolution.files.get(name)
        rows.append(
            {
                **_named(device),
                "state": _state(device, resolution.nodes.get(name)),
                "file": str(file.path) if file else None,
                "reasons": _reasons(device),
            }
        )
    problems = dict.fromkeys(str(problem) for problem in (*plan.problems, *resolution.problems))
    to_do = [f"`run` would {step}" for step in plan.steps]
    return Report(
        tuple(rows),
        STATUS_COLUMNS,
        (*left_out, *grouped(_all_reasons(devices)), *problems, *to_do),
        empty="no device can be named: no IOMMU group holds a GPU",
    )


def plan(plan: Plan) -> Report:
    """The steps in order, and what is in the way."""
    rows = []
    for step in plan.steps:
        match step:
            case LoadModule(module):
                rows.append({"step": "load", "what": module, "text": str(step)})
            case WriteSpec(path):
                rows.append({"step": "write", "what": str(path), "text": str(step)})
            case RemoveSpec(path):
                rows.append({"step": "remove", "what": str(path), "text": str(step)})
    return Report(tuple(rows), PLAN_COLUMNS, tuple(map(str, plan.problems)), empty="nothing to do")


def _named(device: AssignableDevice) -> dict[str, object]:
    return {
        "name": f"{device.resource}={device.id}",
        "further_names": list(device.further_names),
        "nodes": list(device.spec_nodes),
    }


def _state(device: AssignableDevice, nodes: tuple[str, ...] | None) -> str:
    """`resolves`, `unresolved` (it should), `wrong` (to other nodes than it should), `left out` (with its reason)."""
    if not device.is_resolvable:
        return "left out"
    if nodes is None:
        return "unresolved"
    return "resolves" if nodes == device.spec_nodes else "wrong"


def _reasons(device: AssignableDevice) -> list[str]:
    return [str(problem) for problem in device.problems]


def _all_reasons(devices: Iterable[AssignableDevice]) -> list[tuple[object, str]]:
    return [(f"{device.resource}={device.id}", reason) for device in devices for reason in _reasons(device)]
