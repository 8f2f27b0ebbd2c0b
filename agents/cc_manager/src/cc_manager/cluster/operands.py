"""The operator's components around a change of mode: which deploy labels pause, restore or claim them. Pure.

The protocol is shared with other tools, so it is exact: facts/labels-and-settings.md. What an operand was before is
kept in its label alone, so a pause survives any crash and whoever finds one can undo it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PREFIX = "nvidia.com/gpu.deploy."
"""Of the labels by which an operator, or an administrator, decides which of its components run on a node."""
OPERANDS = (
    "vfio-manager",
    "kata-manager",
    "sandbox-device-plugin",
    "kata-sandbox-device-plugin",
    "sandbox-validator",
    "vgpu-manager",
    "vgpu-device-manager",
)
"""Every operand that may touch a device or hand one out. Never cc-manager: it would end itself."""

PAUSED = "paused-for-cc-mode-change"
_OTHERS_PAUSE = "paused-for-driver-upgrade"
_LONGEST_LABEL = 63


@dataclass(frozen=True, slots=True)
class LabelChange:
    """One label to be set, if it still is what it was."""

    key: str
    before: str | None
    """None: it is not there."""
    after: str

    def __str__(self) -> str:
        return f"label {self.key} from {self.before or 'absent'} to {self.after}"


def key_of(operand: str) -> str:
    """The operand's deploy label."""
    return f"{PREFIX}{operand}"


def is_paused(value: str | None) -> bool:
    """Whether we, or another tool that changes modes, paused the operand."""
    return value is not None and PAUSED in value


def paused_value(value: str) -> str | None:
    """What pauses an operand whose label is *value*; None: it does not run, is paused already, or cannot be paused."""
    if not _runs(value):
        return None
    after = PAUSED if value == "true" else f"{value}_{PAUSED}"
    return after if len(after) <= _LONGEST_LABEL else None


def restored_value(value: str) -> str | None:
    """What the label was before it was paused; None: it is not paused, or somebody else changed it since."""
    if value == PAUSED:
        return "true"
    before, separator, rest = value.rpartition(f"_{PAUSED}")
    return before if separator and before and not rest else None


def plan_pause(labels: Mapping[str, str]) -> tuple[LabelChange, ...]:
    """Pause every operand that runs. Absent, empty and `false` stay: nothing runs there, and nothing must start."""
    return _changes(labels, {o: paused_value(value) for o in OPERANDS if (value := labels.get(key_of(o))) is not None})


def plan_restore(labels: Mapping[str, str]) -> tuple[LabelChange, ...]:
    """Undo every pause of ours, whoever began it and however that ended."""
    return _changes(
        labels, {o: restored_value(value) for o in OPERANDS if (value := labels.get(key_of(o))) is not None}
    )


def plan_claim(labels: Mapping[str, str], own: Iterable[str]) -> tuple[LabelChange, ...]:
    """Put `true` on the absent labels of our *own* operands, so that they can be paused without an operator.

    An empty label is somebody's decision and stays, as any other value does.
    """
    return tuple(LabelChange(key_of(o), None, "true") for o in OPERANDS if o in set(own) and key_of(o) not in labels)


def paused_operands(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The operands that are paused for a change of mode."""
    return tuple(operand for operand in OPERANDS if is_paused(labels.get(key_of(operand))))


def unpausable(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Operands that run and whose label is too long to be kept beside the suffix: 37 characters at most."""
    values = {operand: labels.get(key_of(operand), "") for operand in OPERANDS}
    return tuple(operand for operand, value in values.items() if _runs(value) and paused_value(value) is None)


def json_patch(changes: Iterable[LabelChange]) -> list[dict[str, object]]:
    """A JSON patch that makes *changes* if all labels still are what they were, and none otherwise.

    A `test` for null passes where the label is absent (the API server's JSON patch library).
    """
    operations: list[dict[str, object]] = []
    for change in changes:
        path = f"/metadata/labels/{change.key.replace('~', '~0').replace('/', '~1')}"
        operations.append({"op": "test", "path": path, "value": change.before})
        operations.append({"op": "add", "path": path, "value": change.after})
    return operations


def _runs(value: str) -> bool:
    return value not in ("", "false") and PAUSED not in value and _OTHERS_PAUSE not in value


def _changes(labels: Mapping[str, str], wanted: Mapping[str, str | None]) -> tuple[LabelChange, ...]:
    return tuple(
        LabelChange(key_of(operand), labels[key_of(operand)], after)
        for operand, after in wanted.items()
        if after is not None
    )
