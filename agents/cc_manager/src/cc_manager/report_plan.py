"""What `plan` shows: the whole change of a node's mode in the order in which `run` would make it. Pure."""

from cc_manager.cluster import operands
from cc_manager.cluster.labels import NodeView
from cc_manager.cluster.operands import LabelChange
from cc_manager.plan import Plan, Reset
from nodelib.output import Record, Report, grouped

COLUMNS = {"phase": "PHASE", "action": "ACTION"}


def _operand(change: LabelChange) -> str:
    return change.key.removeprefix(operands.PREFIX)


def node_plan(planned: Plan, view: NodeView, *, pauses: bool) -> Report:
    """The steps by phase, operands included, or why nothing would be begun; operands that a crash left paused too."""
    phases: list[tuple[str, list[str]]] = []
    if planned.phases:
        phases.append(("ready", ["label nvidia.com/cc.ready.state to empty"]))
    resets = any(isinstance(step, Reset) for step in planned.steps)
    pausing = operands.plan_pause(view.labels) if pauses and resets else ()
    if resets:
        phases.append(("pause", [*(f"pause {_operand(one)}" for one in pausing), "wait until nobody has a device"]))
    phases += [(type(phase[0]).__name__.lower(), [str(step) for step in phase]) for phase in planned.phases if phase]
    paused = {**view.labels, **{change.key: change.after for change in pausing}}
    restoring = operands.plan_restore(paused)
    if restoring:
        phases.append(("restore", [f"let {_operand(one)} run again, as {one.after}" for one in restoring]))
    if planned.phases:
        phases.append(("publish", [f"label nvidia.com/cc.mode.state to {planned.mode}, then the ready value"]))
    rows: tuple[Record, ...] = tuple(
        {"phase": name, "action": action} for name, actions in phases for action in actions
    )
    reasons: list[tuple[object, str]] = [(refusal.address, str(refusal.problem)) for refusal in planned.refusals]
    reasons += [(address, "in use by a virtual machine") for address in planned.busy]
    empty = "nothing to do" if planned.is_done else "no step is planned, because:"
    return Report(rows, COLUMNS, (f"wanted mode: {planned.mode}", *grouped(reasons), *planned.warnings), empty=empty)
