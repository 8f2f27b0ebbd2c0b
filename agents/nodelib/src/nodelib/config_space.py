"""Does a device still answer? What a read of its configuration space says. Pure.

Layout of the header and of extended capabilities: PCI and PCI Express specifications, the same on every function.
"""

from dataclasses import dataclass

from nodelib.pci import ConfigState

HEADER_BYTES = 64
"""The standard header: what every user may read (the rest needs CAP_SYS_ADMIN)."""
EXTENDED_BYTES = 4096
"""All that a PCI Express function has; whoever lacks CAP_SYS_ADMIN is given the header only."""
COMMAND_OFFSET = 4
_EXTENDED = 0x100
"""Where the list of extended capabilities begins."""
_DVSEC = 0x0023
"""The designated vendor-specific extended capability."""


@dataclass(frozen=True, slots=True)
class ConfigAnswer:
    """What one read of a device's configuration space gave."""

    state: ConfigState
    header: bytes = b""
    """As many bytes as were asked for and given, if it answered."""

    @property
    def command(self) -> int | None:
        """The command register, None where there was no answer."""
        if self.state is not ConfigState.ANSWERS:
            return None
        return int.from_bytes(self.header[COMMAND_OFFSET : COMMAND_OFFSET + 2], "little")


def judge_config(answer: bytes | OSError | None) -> ConfigAnswer:
    """What it means that a read gave these bytes, failed, or did not answer in time (None)."""
    if answer is None:
        return ConfigAnswer(ConfigState.HUNG)
    if isinstance(answer, OSError) or len(answer) < COMMAND_OFFSET + 2:
        return ConfigAnswer(ConfigState.UNREADABLE)
    # A function that fell off the bus reads as all ones; 0xffff is no vendor's id.
    state = ConfigState.GONE if answer[:2] == b"\xff\xff" else ConfigState.ANSWERS
    return ConfigAnswer(state, answer)


def word_at(config: bytes, offset: int) -> int | None:
    """The 32-bit word at *offset*, None where *config* does not reach so far."""
    return int.from_bytes(config[offset : offset + 4], "little") if offset + 4 <= len(config) else None


def find_dvsec(config: bytes, vendor: int, dvsec_id: int) -> int | None:
    """Where *vendor*'s own capability *dvsec_id* begins; None where there is none, or where only the header was given.

    Each capability names the next; a list that comes back to itself ends there.
    """
    offset, seen = _EXTENDED, set[int]()
    while offset >= _EXTENDED and offset not in seen:
        seen.add(offset)
        head, maker, kind = (word_at(config, offset + at) for at in (0, 4, 8))
        if not head or maker is None or kind is None:
            return None  # an empty list begins with a word of zeros
        if (head & 0xFFFF, maker & 0xFFFF, kind & 0xFFFF) == (_DVSEC, vendor, dvsec_id):
            return offset
        offset = head >> 20 & 0xFFC
    return None
