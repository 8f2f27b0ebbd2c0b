"""What `spec` shows as a table: each name, what it stands for, and why a device has none."""

from collections.abc import Iterable

from nodelib.output import Report, grouped
from nodelib.vfio import AssignableDevice

COLUMNS = {"name": "CDI NAME", "further_names": "ALSO", "nodes": "DEVICE NODES", "listed": "LISTED"}


def names(devices: Iterable[AssignableDevice], left_out: Iterable[str]) -> Report:
    """One row per device, listed in a spec or not; the reasons below."""
    rows = []
    reasons: list[tuple[object, str]] = []
    for device in devices:
        rows.append(
            {
                "name": f"{device.resource}={device.id}",
                "further_names": list(device.further_names),
                "nodes": list(device.spec_nodes),
                "listed": device.is_resolvable,
                "reasons": [str(problem) for problem in device.problems],
            }
        )
        reasons += [(f"{device.resource}={device.id}", str(problem)) for problem in device.problems]
    return Report(
        tuple(rows), COLUMNS, (*left_out, *grouped(reasons)), empty="no device can be named: no IOMMU group holds a GPU"
    )
