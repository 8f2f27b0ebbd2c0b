"""The fewest words that talk to an emulated Blackwell GPU: for the tests of the fake itself, not a client."""

from tests.fakes.gpu import Words
from tests.fakes.gpu_script import Clock

# Facts, section 3b, port 0, added up by hand: 0x8f1e00 + 0x184 and + 0x104, and 4 more each.
TO_INFO, TO_DATA = 0x8F1F84 // 4, 0x8F1F88 // 4
FROM_INFO, FROM_DATA = 0x8F1F04 // 4, 0x8F1F08 // 4
READY, ERROR, CREDITS = 1 << 24, 1 << 25, 1 << 26


def announce(words: Words, announcement: int) -> None:
    assert words[TO_INFO] == READY
    words[TO_INFO] = announcement


def put(words: Words, clock: Clock, *packet: int) -> None:
    """The words of a packet that was announced, with a look at the credits before each 64 bytes."""
    for number, word in enumerate(packet):
        if number % 16 == 0:
            clock.now += 0.125
            assert words[TO_INFO] == CREDITS
        words[TO_DATA] = word


def send(words: Words, clock: Clock, announcement: int, *packet: int) -> None:
    announce(words, announcement)
    put(words, clock, *packet)
    assert not words[TO_INFO] & ERROR


def receive(words: Words, info: int) -> list[int]:
    """The message that *info* tells of."""
    assert words[FROM_INFO] == info
    answer = [words[FROM_DATA] for _ in range((info & 0xFFFFF) // 4)]
    assert not words[FROM_INFO] & ERROR
    return answer


def ask(words: Words, clock: Clock, announcement: int, *packet: int, info: int) -> list[int]:
    send(words, clock, announcement, *packet)
    clock.now += 1
    return receive(words, info)


def read_knob(words: Words, clock: Clock, knob: int) -> int:
    """The lower half of the value."""
    return ask(words, clock, 0x10000C, 0xC0000000, 0x1310DE7E, 0x20C | knob << 16, info=0x1000018)[5] & 0xFFFF


def write_knob(words: Words, clock: Clock, knob: int, value: int) -> int:
    """The error code."""
    return ask(words, clock, 0x100010, 0xC0000000, 0x1310DE7E, 0x20D | knob << 16, value, info=0x1000014)[4]
