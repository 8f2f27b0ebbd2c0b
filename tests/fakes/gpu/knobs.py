"""The PRC knobs: values that survive resets, who may change them, and the mode they make.

Facts, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CC_DEVTOOLS, CC, DECOUPLER, PPCIE = 6, 8, 10, 45
LEGACY_RESTRICTIONS = (2, 4, 34)
PERMISSION_OF = {2: 1, 4: 3, 34: 33, CC_DEVTOOLS: 5, CC: 7, DECOUPLER: 9, PPCIE: 44}
UNUSED = (35, 36, 46, 47)

# The one error code that the facts name.
NO_SUCH_KNOB = 0x1E3
# The facts name no numbers for these: a client may know only that they are not 0 and not 0x1e3.
NOT_ALLOWED_IN_BAND = 0x2A1
BAD_VALUE = 0x2A2
LEGACY_RESTRICTION_SET = 0x2A3


@dataclass(frozen=True, slots=True)
class ActiveMode:
    cc_bits: int
    """0b00 off, 0b01 on, 0b11 devtools, 0b10 invalid: devtools without CC."""
    is_ppcie: bool


class RefusedError(Exception):
    """A request is answered with an error; a mistake is one that a right client never makes."""

    def __init__(self, code: int, reason: str, *, is_mistake: bool = True) -> None:
        super().__init__(reason)
        self.code = code
        self.is_mistake = is_mistake


class Knobs:
    def __init__(self, initial: Mapping[int, int], *, has_ppcie: bool) -> None:
        permitted = dict.fromkeys(PERMISSION_OF.values(), 1)
        self.values = dict.fromkeys((*PERMISSION_OF, *UNUSED), 0) | permitted
        if not has_ppcie:
            del self.values[PPCIE], self.values[PERMISSION_OF[PPCIE]]
        assert initial.keys() <= self.values.keys(), "a knob that this firmware does not have"
        self.values.update(initial)

    def read(self, knob: int) -> int:
        if knob not in self.values:
            # No mistake: reading is how a client finds out.
            raise RefusedError(NO_SUCH_KNOB, f"knob {knob} does not exist", is_mistake=False)
        return self.values[knob]

    def write(self, knob: int, value: int) -> None:
        if knob not in self.values:
            raise RefusedError(NO_SUCH_KNOB, f"knob {knob} does not exist and is written")
        if knob not in PERMISSION_OF:
            raise RefusedError(NOT_ALLOWED_IN_BAND, f"knob {knob} is not for the host to write")
        if not self.values[PERMISSION_OF[knob]]:
            # No mistake: only the baseboard controller decides this.
            reason = f"knob {knob} may not be changed in band"
            raise RefusedError(NOT_ALLOWED_IN_BAND, reason, is_mistake=False)
        if value > 0xFFFF:
            raise RefusedError(BAD_VALUE, f"knob {knob} := {value:#x} has more than 16 bits")
        # "Legacy restriction knobs that must be 0 before a protected mode": which error, and whether
        # at the write or at the reset, the facts leave open. The write shows a wrong order soonest.
        if value and knob in {CC_DEVTOOLS, CC, PPCIE}:
            restricting = [one for one in LEGACY_RESTRICTIONS if self.values[one]]
            if restricting:
                reason = f"knob {knob} := {value} while {restricting} are not 0"
                raise RefusedError(LEGACY_RESTRICTION_SET, reason)
        self.values[knob] = value

    @property
    def staged(self) -> ActiveMode:
        cc_bits = bool(self.values[CC]) | bool(self.values[CC_DEVTOOLS]) << 1
        return ActiveMode(cc_bits, is_ppcie=bool(self.values.get(PPCIE, 0)))

    @property
    def decouples(self) -> bool:
        return bool(self.values[DECOUPLER])
