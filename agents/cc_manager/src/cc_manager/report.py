"""What cc-manager's verbs show: the same facts as a table for people and as fields for programs."""

from collections.abc import Iterable

from cc_manager.observation import Observation
from cc_manager.plan import Plan
from nodelib.nvidia import chip_of, kind_of, model_of
from nodelib.output import Report, grouped

COLUMNS = {
    "address": "ADDRESS",
    "kind": "KIND",
    "model": "MODEL",
    "driver": "DRIVER",
    "in_use": "USED",
    "active_mode": "MODE",
    "staged_mode": "STAGED",
    "source": "SOURCE",
}


def status(observations: Iterable[Observation]) -> Report:
    """Every GPU and NVSwitch with its mode, and below why one is not known."""
    rows = []
    reasons: list[tuple[object, str]] = []
    for one in observations:
        chip = chip_of(one.device)
        rows.append(
            {
                "address": str(one.address),
                "kind": kind_of(one.device).value,
                "model": model_of(one.device),
                "chip": chip.name if chip else None,
                "driver": one.device.driver,
                "in_use": one.in_use,
                "active_mode": str(one.active) if one.active else None,
                "staged_mode": str(one.staged) if one.staged else None,
                "source": one.source,
                "verified_at": one.verified_at,
                "reason": str(one.problem) if one.problem else None,
            }
        )
        if one.problem:
            reasons.append((one.address, str(one.problem)))
        elif one.in_use and one.verified_at:
            reasons.append((one.address, f"in use and not touched; verified at {one.verified_at}"))
        elif one.in_use:
            reasons.append((one.address, "in use and not touched; never verified since the node booted"))
    return Report(tuple(rows), COLUMNS, grouped(reasons), empty="no NVIDIA GPU on this node")


def plan(planned: Plan, observations: Iterable[Observation] = ()) -> Report:
    """The steps by phase, or the reasons why nothing would be begun; *observations* are what was planned upon."""
    rows = [
        {"phase": number, "address": str(step.address), "action": str(step)}
        for number, phase in enumerate(planned.phases, 1)
        for step in phase
    ]
    reasons: list[tuple[object, str]] = [(refusal.address, str(refusal.problem)) for refusal in planned.refusals]
    reasons += [(address, "in use by a virtual machine") for address in planned.busy]
    asleep: list[tuple[object, str]] = [
        (one.address, "it sleeps and was not woken for this: it may be in the mode already")
        for one in observations
        if one.is_asleep
    ]
    notes = (*grouped(reasons), *grouped(asleep), *(f"warning: {text}" for text in planned.warnings))
    empty = "nothing to do" if planned.is_done else "no step is planned, because:"
    return Report(tuple(rows), {"phase": "PHASE", "action": "ACTION"}, notes, empty=empty)
