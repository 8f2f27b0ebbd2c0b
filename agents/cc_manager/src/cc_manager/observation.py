"""What is known of each device's mode at one moment. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cc_manager.gpu.chips import Part
from cc_manager.mode import CcMode, ModeBits
from nodelib.pci import PciAddress, PciDevice
from nodelib.problem import Problem

NVIDIA_DRIVER = "nvidia"
"""The driver that NVML speaks for."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The mode in which a device was last verified; true for as long as it is in use, within that boot only.

    A device that a VM has open cannot change its mode: VFIO resets it when it is opened and closed, and what those
    resets put in force was staged, and staged equals active before anybody may open it.
    """

    mode: CcMode
    time: str
    """UTC, as in RFC 3339."""
    boot_id: str


@dataclass(frozen=True, slots=True)
class NvmlState:
    """What the NVIDIA driver says of a GPU that it holds; None: it does not tell."""

    is_capable: bool | None = None
    """Whether the GPU can do confidential computing."""
    mode: ModeBits | None = None
    is_ready: bool | None = None
    """Whether the GPU accepts work: with CC on, only after somebody has attested it and said so."""

    def __str__(self) -> str:
        parts = (
            None if self.is_capable is None else "capable" if self.is_capable else "not capable",
            None if self.mode is None else f"mode {self.mode}",
            self._readiness,
        )
        return ", ".join(part for part in parts if part) or "nothing"

    @property
    def _readiness(self) -> str | None:
        """Of no interest where CC is off: such a GPU works, whatever this says (seen on an H200: it says "not")."""
        if self.is_ready is None or (self.mode is not None and self.mode.mode is CcMode.OFF):
            return None
        return "accepting work" if self.is_ready else "not accepting work"


@dataclass(frozen=True, slots=True)
class Observation:
    """One GPU or NVSwitch, and the mode that it is in."""

    device: PciDevice
    part: Part | None
    """None: a device whose mode cannot be set."""
    in_use: bool
    active: ModeBits | None = None
    """None: not known, and `problem` says why."""
    staged: ModeBits | None = None
    """None: the firmware was not asked."""
    staged_decoupler: int | None = None
    """The decoupler's knob, which a change that was cut short may leave for another mode although no mode bit tells."""
    source: str = ""
    """Where `active` comes from: `BAR0`, `NVML`, or `label` (our annotation) for a device in use."""
    nvml: NvmlState | None = None
    """For `status`, of a GPU that the NVIDIA driver holds."""
    is_decoupled: bool | None = None
    """Whether BAR0 is closed to the host but for a few registers; None: the part does not tell, or was not asked."""
    verified_at: str = ""
    """For a device in use: when it was last verified; empty where it never was since the node booted."""
    problem: Problem | None = None

    @property
    def address(self) -> PciAddress:
        return self.device.address

    @property
    def sources_differ(self) -> bool:
        """Whether registers and driver both tell the mode, and not the same one."""
        return (
            self.nvml is not None
            and None not in (self.nvml.mode, self.active)
            and self.source == "BAR0"
            and self.nvml.mode != self.active
        )

    @property
    def is_asleep(self) -> bool:
        """Whether its mode is not known because it sleeps and was not woken to be looked at."""
        return self.problem is not None and self.problem.code == "asleep"

    @property
    def is_left_staged(self) -> bool:
        """Whether the next reset will put another mode in force than the active one."""
        if self.staged is None or self.active is None:
            return False
        return self.staged != self.active or self._has_decoupler_of_another(self.active.mode)

    def is_in(self, mode: CcMode) -> bool:
        """Whether the device is known to show what it must on a node in *mode*, now and after its next reset."""
        if self.part is None or self.active is None:
            return False
        wanted = self.part.shown_mode(mode)
        if self.active.mode is not wanted or self._has_decoupler_of_another(mode):
            return False
        return self.staged is None or self.staged.mode is wanted

    @property
    def staged_text(self) -> str:
        """What the next reset will put in force, for people."""
        if self.active is not None and self._has_decoupler_of_another(self.active.mode):
            return f"{self.staged} with the BAR0 decoupler's knob at {self.staged_decoupler}"
        return str(self.staged)

    def _has_decoupler_of_another(self, mode: CcMode | None) -> bool:
        """Whether the decoupler's knob is not what *mode* sets it to."""
        if mode is None or self.part is None or self.staged_decoupler is None:
            return False
        return self.part.decoupler_knob(mode) not in (None, self.staged_decoupler)


def as_if_woken(observations: Iterable[Observation]) -> tuple[Observation, ...]:
    """*observations* for a plan that is only shown: a change would wake a sleeping device and go on."""
    return tuple(replace(one, problem=None) if one.is_asleep else one for one in observations)


def with_nvml(observations: Iterable[Observation], states: Mapping[PciAddress, NvmlState]) -> tuple[Observation, ...]:
    """*observations* with what NVML says beside them; where BAR0 told nothing, NVML's mode is the active one."""
    return tuple(_beside(one, states[one.address]) if one.address in states else one for one in observations)


def _beside(one: Observation, nvml: NvmlState) -> Observation:
    if one.active is None and nvml.mode is not None:
        return replace(one, nvml=nvml, active=nvml.mode, source="NVML")
    return replace(one, nvml=nvml)
