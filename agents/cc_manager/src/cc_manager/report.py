"""What cc-manager's verbs show: the same facts as a table for people and as fields for programs."""

from collections.abc import Iterable

from cc_manager.observation import Observation
from cc_manager.plan import Plan
from nodelib.nvidia import chip_of, kind_of, model_of
from nodelib.output import Report

COLUMNS = {
    "address": "ADDRESS",
    "kind": "KIND",
    "model": "MODEL",
    "chip": "CHIP",
    "driver": "DRIVER",
    "in_use": "USED",
    "active_mode": "MODE",
    "staged_mode": "STAGED",
    "source": "SOURCE",
}


def status(observations: Iterable[Observation]) -> Report:
    """Every GPU and NVSwitch with its mode, and below why one is not known."""
    rows = []
    notes = []
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
                "reason": str(one.problem) if one.problem else None,
            }
        )
        if one.problem:
            notes.append(str(one.problem))
    return Report(tuple(rows), COLUMNS, tuple(notes), empty="no NVIDIA GPU on this node")


def plan(planned: Plan) -> Report:
    """The steps by phase, or the reasons why nothing would be begun."""
    rows = [
        {"phase": number, "address": str(step.address), "action": str(step)}
        for number, phase in enumerate(planned.phases, 1)
        for step in phase
    ]
    notes = [str(problem) for problem in planned.problems]
    notes += [f"{address}: in use by a virtual machine" for address in planned.busy]
    return Report(
        tuple(rows), {"phase": "PHASE", "address": "ADDRESS", "action": "ACTION"}, tuple(notes), empty="nothing to do"
    )
