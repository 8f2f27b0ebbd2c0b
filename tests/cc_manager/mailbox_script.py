"""Scripts of Blackwell's mailbox, port 0, with every offset and word worked out by hand from the facts, section 3b."""

from tests.cc_manager.scripted import Read, Script, Write, answer

TO_DEVICE, WRITE_DATA = 0x8F1F84, 0x8F1F88
FROM_DEVICE, READ_DATA = 0x8F1F04, 0x8F1F08

READY, CREDITS = 0x0100_0000, 0x0400_0000
"""Of the info word to the device: bit 24 and bit 26."""
NOTHING = 0x0000_0000
TO_ERROR, FROM_ERROR = 0x0200_0000, 0x0200_0000

NOBODY_ASKED: Script = [Read(TO_DEVICE, READY), Read(TO_DEVICE, READY), Read(FROM_DEVICE, NOTHING)]
"""The first look at a mailbox: no error, ready, and no stale answer in it."""


def mailed(*words: int) -> Script:
    """One packet of up to 64 bytes handed to an FSP that takes it at once."""
    return [
        Read(TO_DEVICE, READY),  # no error
        Read(TO_DEVICE, READY),  # ready
        Write(TO_DEVICE, 0x0010_0000 + 4 * len(words)),
        Read(TO_DEVICE, CREDITS),
        *(Write(WRITE_DATA, word) for word in words),
        Read(TO_DEVICE, READY),  # no error
    ]


def answered(*words: int) -> Script:
    """One answer that is there at the first look."""
    return [
        Read(FROM_DEVICE, 0x0100_0000 + 4 * len(words)),
        *(Read(READ_DATA, word) for word in words),
        Read(FROM_DEVICE, NOTHING),  # no error
    ]


def knob_read(request: int, value: int | None) -> Script:
    """A knob read, *request* being its payload word; None: the firmware does not have the knob."""
    reply = answer(code=0x1E3) if value is None else answer(value)
    return [*mailed(0xC000_0000, 0x1310_DE7E, request), *answered(*reply)]


def knob_written(request: int, value: int) -> Script:
    return [*mailed(0xC000_0000, 0x1310_DE7E, request, value), *answered(*answer())]
