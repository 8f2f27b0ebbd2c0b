"""Confidential-computing modes: what may be asked for, and what a device's mode bits mean."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from nodelib.errors import InvalidValue


class CcMode(StrEnum):
    """What the node's label asks for. PPCIe is a separate setting of the hardware, one label names both."""

    OFF = "off"
    ON = "on"
    DEVTOOLS = "devtools"
    PPCIE = "ppcie"


def parse_mode(text: str) -> CcMode:
    """The mode that *text* names exactly. Raises InvalidValue: `ON` or an empty text is no mode."""
    try:
        return CcMode(text)
    except ValueError:
        *others, last = CcMode
        allowed = f"{', '.join(others)} or {last}"
        raise InvalidValue(f"{text!r} is not a confidential-computing mode: write {allowed}") from None


_CC_BITS = {0b00: CcMode.OFF, 0b01: CcMode.ON, 0b11: CcMode.DEVTOOLS}


@dataclass(frozen=True, slots=True)
class ModeBits:
    """A mode as the hardware holds it: active (from registers) or staged (from knobs)."""

    cc: int = 0b00
    """Bit 0: CC, bit 1: devtools."""
    ppcie: bool = False

    @classmethod
    def of(cls, mode: CcMode) -> Self:
        """The bits that *mode* sets."""
        if mode is CcMode.PPCIE:
            return cls(ppcie=True)
        return cls(next(bits for bits, known in _CC_BITS.items() if known is mode))

    @property
    def mode(self) -> CcMode | None:
        """The mode, None for a state that is none and that only setting a mode repairs.

        Such are 0b10 ("devtools without CC"), and PPCIe together with CC, which no mode sets.
        """
        if self.ppcie:
            return CcMode.PPCIE if self.cc == 0b00 else None
        return _CC_BITS.get(self.cc)

    def __str__(self) -> str:
        if (mode := self.mode) is not None:
            return mode.value
        return f"invalid (CC mode bits 0b{self.cc:02b}, PPCIe {'on' if self.ppcie else 'off'})"
