"""What `knobs` shows. Pure."""

from collections.abc import Iterable

from cc_manager.firmware_look import KnobReading
from cc_manager.gpu.knobs import PERMISSION_OF
from nodelib.output import Report, grouped

COLUMNS = {"address": "ADDRESS", "knob": "KNOB", "name": "NAME", "staged": "STAGED", "change": "BY HOST"}


def knobs(readings: Iterable[KnobReading]) -> Report:
    """A row for each knob of each device; below them why a device has none, and what the host may not change."""
    rows, reasons = [], list[tuple[object, str]]()
    for one in readings:
        if one.reason:
            reasons.append((one.address, one.reason))
            continue
        locked = []
        for knob, permission in PERMISSION_OF.items():
            is_there, is_allowed = one.values.get(knob) is not None, one.is_allowed(knob)
            rows.append(
                {
                    "address": str(one.address),
                    "knob": knob.value,
                    "name": knob.label,
                    "staged": one.values.get(knob),
                    "allowed_in_band": is_allowed,
                    "allowed_by_knob": permission.value,
                    "change": _change(is_allowed) if is_there else "absent",
                }
            )
            if is_there and is_allowed is False:
                locked.append(str(knob.value))
        if locked:
            reasons.append(
                (one.address, f"knobs {', '.join(locked)}: only the baseboard controller (BMC) changes them")
            )
    empty = "no knob could be read, because:" if reasons else "no NVIDIA GPU on this node"
    return Report(tuple(rows), COLUMNS, grouped(reasons), empty=empty)


def _change(is_allowed: bool | None) -> str:
    return {True: "allowed", False: "forbidden", None: "not told"}[is_allowed]
