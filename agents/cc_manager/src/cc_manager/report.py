"""What cc-manager's verbs show: the same facts as a table for people and as fields for programs."""

from collections.abc import Iterable

from cc_manager.observation import NvmlState, Observation
from cc_manager.plan import Plan
from nodelib.nvidia import chip_of, kind_of, model_of
from nodelib.output import Record, Report, grouped

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


def status(observations: Iterable[Observation], nvml_reason: str = "") -> Report:
    """Every GPU and NVSwitch with its mode, and below why one is not known, and why NVML was of no help."""
    rows: list[Record] = []
    reasons: list[tuple[object, str]] = []
    told: list[tuple[object, str]] = []
    for one in observations:
        rows.append(_row(one))
        if reason := _reason(one):
            reasons.append((one.address, reason))
        if one.is_decoupled:
            told.append((one.address, "its BAR0 is closed to the host but for a few registers (decoupler)"))
        if one.nvml:
            told.append((one.address, f"NVML says: {one.nvml}"))
        if one.sources_differ and one.nvml:
            told.append((one.address, f"warning: BAR0 says {one.active}, NVML says {one.nvml.mode}"))
    notes = (*grouped(reasons), *grouped(told), *((nvml_reason,) if nvml_reason else ()))
    return Report(tuple(rows), COLUMNS, notes, empty="no NVIDIA GPU on this node")


def _row(one: Observation) -> Record:
    chip = chip_of(one.device)
    both = one.source == "BAR0" and one.nvml is not None and one.nvml.mode is not None
    nvml = one.nvml or NvmlState()
    return {
        "address": str(one.address),
        "kind": kind_of(one.device).value,
        "model": model_of(one.device),
        "chip": chip.name if chip else None,
        "driver": one.device.driver,
        "in_use": one.in_use,
        "active_mode": str(one.active) if one.active else None,
        "staged_mode": one.staged_text if one.staged else None,
        "decoupled": one.is_decoupled,
        "source": "BAR0, NVML" if both else one.source,
        "nvml_capable": nvml.is_capable,
        "nvml_mode": str(nvml.mode) if nvml.mode else None,
        "nvml_ready": nvml.is_ready,
        "verified_at": one.verified_at,
        "reason": str(one.problem) if one.problem else None,
    }


def _reason(one: Observation) -> str:
    if one.problem:
        return str(one.problem)
    if one.in_use:
        since = f"verified at {one.verified_at}" if one.verified_at else "never verified since the node booted"
        return f"in use and not touched; {since}"
    return ""


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
