"""Does a device still answer? What a read of its configuration space says. Pure.

Layout of the header: PCI specification, the same on every kind of function.
"""

from dataclasses import dataclass

from nodelib.pci import ConfigState

HEADER_BYTES = 64
"""The standard header: what every user may read (the rest needs CAP_SYS_ADMIN)."""
COMMAND_OFFSET = 4


@dataclass(frozen=True, slots=True)
class ConfigAnswer:
    """What one read of a device's configuration space gave."""

    state: ConfigState
    header: bytes = b""
    """The first 64 bytes, if it answered."""

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
