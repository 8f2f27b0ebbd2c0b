"""Which firmware knobs a mode needs, in which order, and who may change them. Pure.

Ids, final values and orders: facts/fsp-and-cc-mode.md section 4, after NVIDIA's open GPU administration tools.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from cc_manager.mode import CcMode, ModeBits


class Knob(IntEnum):
    """A persistent setting of the firmware; it takes effect at the next reset."""

    RESTRICTION_2_ALLOWED = 1
    RESTRICTION_2 = 2
    RESTRICTION_4_ALLOWED = 3
    RESTRICTION_4 = 4
    DEVTOOLS_ALLOWED = 5
    DEVTOOLS = 6
    CC_ALLOWED = 7
    CC = 8
    DECOUPLER_ALLOWED = 9
    DECOUPLER = 10
    RESTRICTION_34_ALLOWED = 33
    RESTRICTION_34 = 34
    PPCIE_ALLOWED = 44
    PPCIE = 45

    @property
    def label(self) -> str:
        """Its name for people."""
        return self.name.lower().replace("_", " ")

    @property
    def text(self) -> str:
        """The knob in a sentence: the number is what documents and other tools use."""
        return f"knob {self.value} ({self.label})"


PERMISSION_OF: Mapping[Knob, Knob] = {
    # That 1, 3 and 33 permit 2, 4 and 34 is taken from their place, not documented: they are asked only when needed.
    Knob.RESTRICTION_2: Knob.RESTRICTION_2_ALLOWED,
    Knob.RESTRICTION_4: Knob.RESTRICTION_4_ALLOWED,
    Knob.RESTRICTION_34: Knob.RESTRICTION_34_ALLOWED,
    Knob.DEVTOOLS: Knob.DEVTOOLS_ALLOWED,
    Knob.CC: Knob.CC_ALLOWED,
    Knob.DECOUPLER: Knob.DECOUPLER_ALLOWED,
    Knob.PPCIE: Knob.PPCIE_ALLOWED,
}
"""The "allowed in band" knob of each knob we write."""


@dataclass(frozen=True, slots=True)
class KnobWrite:
    """One knob and the value that it must have."""

    knob: Knob
    value: int

    def __str__(self) -> str:
        return f"set {self.knob.text} to {self.value}"


Targets = tuple[KnobWrite, ...]
"""The final value of every knob that a mode touches, in the order of writing."""

KnobTable = Mapping[CcMode, Targets]
"""The modes of one kind of device; a mode that is not in it is not supported there."""

KnobValues = Mapping[Knob, int | None]
"""Values as read; None where the firmware does not have the knob."""

_NO_RESTRICTIONS = (
    KnobWrite(Knob.RESTRICTION_2, 0),
    KnobWrite(Knob.RESTRICTION_4, 0),
    KnobWrite(Knob.RESTRICTION_34, 0),
)
_PPCIE_OFF = KnobWrite(Knob.PPCIE, 0)
_PPCIE_ON = KnobWrite(Knob.PPCIE, 1)
_DECOUPLER_OFF = KnobWrite(Knob.DECOUPLER, 0)
_DECOUPLER_ON = KnobWrite(Knob.DECOUPLER, 2)
_CC_OFF = KnobWrite(Knob.CC, 0)
_CC_ON = KnobWrite(Knob.CC, 1)
_DEVTOOLS_OFF = KnobWrite(Knob.DEVTOOLS, 0)
_DEVTOOLS_ON = KnobWrite(Knob.DEVTOOLS, 1)

# CC goes on before devtools and off after it, so that devtools is never set alone: that is the invalid state 0b10.
HOPPER_GPU_KNOBS: KnobTable = {
    CcMode.OFF: (_PPCIE_OFF, _DECOUPLER_OFF, _DEVTOOLS_OFF, _CC_OFF),
    CcMode.ON: (*_NO_RESTRICTIONS, _PPCIE_OFF, _DECOUPLER_ON, _CC_ON, _DEVTOOLS_OFF),
    CcMode.DEVTOOLS: (*_NO_RESTRICTIONS, _PPCIE_OFF, _DECOUPLER_OFF, _CC_ON, _DEVTOOLS_ON),
    CcMode.PPCIE: (*_NO_RESTRICTIONS, _DEVTOOLS_OFF, _CC_OFF, _DECOUPLER_ON, _PPCIE_ON),
}

# Blackwell has no PPCIe, and its decoupler knob is not to be touched.
BLACKWELL_GPU_KNOBS: KnobTable = {
    CcMode.OFF: (_DEVTOOLS_OFF, _CC_OFF),
    CcMode.ON: (*_NO_RESTRICTIONS, _CC_ON, _DEVTOOLS_OFF),
    CcMode.DEVTOOLS: (*_NO_RESTRICTIONS, _CC_ON, _DEVTOOLS_ON),
}

# A switch takes part in PPCIe only; in every other mode of the node it stands aside.
_SWITCH_ASIDE = (_DECOUPLER_OFF, _PPCIE_OFF)
NVSWITCH_GEN3_KNOBS: KnobTable = {
    CcMode.OFF: _SWITCH_ASIDE,
    CcMode.ON: _SWITCH_ASIDE,
    CcMode.DEVTOOLS: _SWITCH_ASIDE,
    CcMode.PPCIE: (*_NO_RESTRICTIONS, _DEVTOOLS_OFF, _CC_OFF, _DECOUPLER_OFF, _PPCIE_ON),
}


def knobs_to_read(targets: Targets) -> tuple[Knob, ...]:
    """What must be read before it is known what to write."""
    return tuple(target.knob for target in targets)


def missing_knobs(targets: Targets, current: KnobValues) -> tuple[Knob, ...]:
    """The knobs without which the mode cannot be set, and which the firmware does not have.

    Firmware older than PPCIe does not have its knob: fine wherever PPCIe is to be off. Any other absence is an error.
    """
    return tuple(target.knob for target in targets if current.get(target.knob) is None and target != _PPCIE_OFF)


def knob_writes(targets: Targets, current: KnobValues) -> Targets:
    """The writes that lead from *current* to *targets*, in order: only what differs, only knobs that exist."""
    return tuple(
        target for target in targets if (value := current.get(target.knob)) is not None and value != target.value
    )


def permissions_to_read(writes: Iterable[KnobWrite]) -> tuple[Knob, ...]:
    """The "allowed in band" knobs that decide over *writes*."""
    return tuple(PERMISSION_OF[write.knob] for write in writes)


def forbidden_writes(writes: Iterable[KnobWrite], permissions: KnobValues) -> Targets:
    """Those of *writes* that only the baseboard controller can do.

    Only a permission that reads 0 forbids: where the firmware lacks the permission knob, it answers the write itself.
    """
    return tuple(write for write in writes if permissions.get(PERMISSION_OF[write.knob]) == 0)


def staged_mode(values: KnobValues) -> ModeBits:
    """The mode that the next reset will put in force, in the same bits as the active one."""
    cc = bool(values.get(Knob.CC)) | bool(values.get(Knob.DEVTOOLS)) << 1
    return ModeBits(cc, ppcie=bool(values.get(Knob.PPCIE)))
