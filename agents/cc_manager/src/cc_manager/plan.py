"""Decide what a change of mode takes. Nothing here touches the node."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from cc_manager.settings import PpcieExit
from nodelib.nvidia import Kind, kind_of
from nodelib.pci import PciAddress
from nodelib.problem import Problem, Refusal

_NO_SWITCH = (
    "mode ppcie protects the links between GPUs and NVSwitches, and no NVSwitch is to be seen on this node: if it has "
    "any, see that they are on the bus and bind them (vfio-manager bind --nvswitches always)"
)


@dataclass(frozen=True, slots=True)
class Check:
    """Ask the firmware whether *mode* may be staged; nothing is changed."""

    address: PciAddress
    mode: CcMode

    def __str__(self) -> str:
        return f"ask {self.address} whether it may be brought to mode {self.mode}"

    @property
    def done(self) -> str:
        return f"may be brought to mode {self.mode}"


@dataclass(frozen=True, slots=True)
class Stage:
    """Write the knobs that put *mode* in force at the next reset."""

    address: PciAddress
    mode: CcMode

    def __str__(self) -> str:
        return f"stage mode {self.mode} on {self.address}"

    @property
    def done(self) -> str:
        """What to say of the device afterwards."""
        return f"mode {self.mode} is staged"


@dataclass(frozen=True, slots=True)
class Reset:
    """Reset the function, so that what is staged comes into force."""

    address: PciAddress

    def __str__(self) -> str:
        return f"reset {self.address}"

    @property
    def done(self) -> str:
        return "was reset"


@dataclass(frozen=True, slots=True)
class Verify:
    """Wait for the boot and read the mode: only that reading says that it was set."""

    address: PciAddress
    mode: CcMode

    def __str__(self) -> str:
        return f"verify that {self.address} is in mode {self.mode}"

    @property
    def done(self) -> str:
        return f"is verified in mode {self.mode}"


Step = Check | Stage | Reset | Verify
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
    warnings: tuple[str, ...] = ()
    """What keeps nothing from being done, and may well be a mistake."""

    @property
    def steps(self) -> Phase:
        return tuple(step for phase in self.phases for step in phase)

    @property
    def is_done(self) -> bool:
        """Whether every device is verified in the mode already."""
        return not (self.phases or self.refusals or self.busy)


def plan_transition(
    observations: Sequence[Observation],
    mode: CcMode,
    ppcie_exit: PpcieExit = PpcieExit.SINGLE,
    only: Collection[PciAddress] | None = None,
) -> Plan:
    """All staged, then all reset, then all verified; nothing for devices that are in *mode* already.

    Nothing is begun unless every device can be changed: a node half in one mode is of no use to anybody. *only*: the
    devices that are to be changed, where somebody mends single ones by hand.
    """
    chosen = [one for one in observations if only is None or one.address in only]
    refusals = tuple(Refusal(one.address, problem) for one in chosen if (problem := _why_not(one, mode)))
    refusals += tuple(_left_out(observations, mode, only or ()) if only is not None else ())
    changing = [one for one in chosen if not one.is_in(mode)]
    busy = tuple(one.address for one in changing if one.in_use)
    warnings = _warnings(observations, mode)
    if refusals or busy:
        return Plan(mode, refusals=refusals, busy=busy, warnings=warnings)
    phases: tuple[Phase, ...] = ()
    if ppcie_exit is PpcieExit.TWO_PASS and mode is not CcMode.PPCIE:
        phases = _phases([one for one in changing if _leaves_ppcie(one)], CcMode.OFF)
        # A device that came to `off` and is to be there (a switch in any mode but PPCIe) needs no second pass.
        changing = [one for one in changing if not _leaves_ppcie(one) or _shown(one, mode) is not CcMode.OFF]
    return Plan(mode, phases + _phases(changing, mode), warnings=warnings)


def _phases(changing: Sequence[Observation], mode: CcMode) -> tuple[Phase, ...]:
    resetting = [one for one in changing if not _only_staged_differs(one, mode)]
    phases: tuple[Phase, ...] = (
        tuple(Stage(one.address, mode) for one in changing),
        tuple(Reset(one.address) for one in resetting),
        tuple(Verify(one.address, mode) for one in changing),
    )
    return tuple(phase for phase in phases if phase)


def _leaves_ppcie(one: Observation) -> bool:
    """Whether PPCIe is in force on a device that is to be in another mode."""
    return one.active is not None and one.active.ppcie


def _shown(one: Observation, mode: CcMode) -> CcMode:
    return one.part.shown_mode(mode) if one.part else mode


def _warnings(observations: Sequence[Observation], mode: CcMode) -> tuple[str, ...]:
    if mode is not CcMode.PPCIE or any(kind_of(one.device) is Kind.NVSWITCH for one in observations):
        return ()
    return (_NO_SWITCH,)


def _left_out(observations: Sequence[Observation], mode: CcMode, only: Collection[PciAddress]) -> Iterable[Refusal]:
    """PPCIe holds for a fabric as a whole: a choice of devices may bring the last ones there, and no others."""
    if mode is not CcMode.PPCIE:
        return
    problem = Problem("left-out", "it is not in mode ppcie and was left out", "choose all devices, or none by name")
    yield from (
        Refusal(one.address, problem) for one in observations if one.address not in only and not one.is_in(mode)
    )


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
