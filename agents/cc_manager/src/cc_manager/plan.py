"""Decide what a change of mode takes. Nothing here touches the node."""

from collections.abc import Sequence
from dataclasses import dataclass

from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from nodelib.pci import PciAddress
from nodelib.problem import Problem, Refusal


@dataclass(frozen=True, slots=True)
class Stage:
    """Write the knobs that put *mode* in force at the next reset."""

    address: PciAddress
    mode: CcMode

    def __str__(self) -> str:
        return f"stage mode {self.mode} on {self.address}"


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the function, so that what is staged comes into force."""

    address: PciAddress

    def __str__(self) -> str:
        return f"reset {self.address}"


@dataclass(frozen=True, slots=True)
class Verify:
    """Wait for the boot and read the mode: only that reading says that it was set."""

    address: PciAddress
    mode: CcMode

    def __str__(self) -> str:
        return f"verify that {self.address} is in mode {self.mode}"


Step = Stage | Reset | Verify
Phase = tuple[Step, ...]
"""Steps that run at the same time, one a device; the next phase begins when all have ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What brings every device to the mode, or why that cannot be done."""

    mode: CcMode
    phases: tuple[Phase, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    """Devices because of which nothing is begun; only somebody else can mend that."""
    busy: tuple[PciAddress, ...] = ()
    """Devices that must change and that a virtual machine has open."""

    @property
    def steps(self) -> Phase:
        return tuple(step for phase in self.phases for step in phase)

    @property
    def is_done(self) -> bool:
        """Whether every device is verified in the mode already."""
        return not (self.phases or self.refusals or self.busy)


def plan_transition(observations: Sequence[Observation], mode: CcMode) -> Plan:
    """All staged, then all reset, then all verified; nothing for devices that are in *mode* already.

    Nothing is begun unless every device can be changed: a node half in one mode is of no use to anybody.
    """
    refusals = tuple(Refusal(one.address, problem) for one in observations if (problem := _why_not(one, mode)))
    changing = [one for one in observations if not one.is_in(mode)]
    busy = tuple(one.address for one in changing if one.in_use)
    if refusals or busy:
        return Plan(mode, refusals=refusals, busy=busy)
    resetting = [one for one in changing if not _only_staged_differs(one, mode)]
    phases = (
        tuple(Stage(one.address, mode) for one in changing),
        tuple(Reset(one.address) for one in resetting),
        tuple(Verify(one.address, mode) for one in changing),
    )
    return Plan(mode, tuple(phase for phase in phases if phase))


def _only_staged_differs(one: Observation, mode: CcMode) -> bool:
    """Whether the mode is in force and only the next reset would change it: putting the knobs back is enough."""
    return one.part is not None and one.active is not None and one.active.mode is one.part.shown_mode(mode)


def _why_not(one: Observation, mode: CcMode) -> Problem | None:
    """Why *one* cannot be brought to *mode*, or told to be in it; being busy is no reason, that passes."""
    if one.problem is not None:
        return one.problem
    if one.part is not None and mode not in one.part.knobs:
        return Problem(
            "mode-unsupported",
            f"it is {one.part.name}, which has no mode {mode}",
            f"set the label nvidia.com/cc.mode to one of {', '.join(one.part.knobs)}",
        )
    return None
