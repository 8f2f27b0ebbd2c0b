"""The fewest words that talk to an emulated GPU: for the tests of the fake itself, not a client."""

from dataclasses import dataclass

from tests.fakes.gpu import EmulatedDevice, Words

# Facts, section 3a, for channel 2; divided by 4 by hand nowhere, so that they read as written there.
EMEMC, EMEMD = 0x8F2AD0 // 4, 0x8F2AD4 // 4
COMMAND_HEAD, COMMAND_TAIL = 0x8F2C10 // 4, 0x8F2C14 // 4
MESSAGE_HEAD, MESSAGE_TAIL = 0x8F2C90 // 4, 0x8F2C94 // 4
BASE = 2048
CONTROL = 0x03000800

# Words 0 and 1 of every request and of every answer (facts, section 4).
WHOLE, PRC, ANSWER = 0xC0000000, 0x1310DE7E, 0x1510DE7E


@dataclass(slots=True)
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def open_channel(words: Words) -> None:
    for register in (COMMAND_TAIL, COMMAND_HEAD, MESSAGE_TAIL, MESSAGE_HEAD):
        words[register] = BASE


def send(words: Words, *packet: int) -> None:
    words[EMEMC] = CONTROL
    for word in packet:
        words[EMEMD] = word
    words[COMMAND_TAIL] = BASE + (len(packet) - 1) * 4
    words[COMMAND_HEAD] = BASE


def has_message(words: Words) -> bool:
    return words[MESSAGE_HEAD] != words[MESSAGE_TAIL]


def has_command(words: Words) -> bool:
    return words[COMMAND_HEAD] != words[COMMAND_TAIL]


def receive(words: Words) -> list[int]:
    assert has_message(words)
    size = words[MESSAGE_TAIL] - words[MESSAGE_HEAD] + 4
    words[EMEMC] = CONTROL
    answer = [words[EMEMD] for _ in range(size // 4)]
    words[MESSAGE_TAIL] = words[MESSAGE_HEAD]
    return answer


def ask(words: Words, clock: Clock, *packet: int) -> list[int]:
    send(words, *packet)
    clock.now += 1
    return receive(words)


def read_knob(words: Words, clock: Clock, knob: int) -> list[int]:
    return ask(words, clock, WHOLE, PRC, 0x20C | knob << 16)


def write_knob(words: Words, clock: Clock, knob: int, value: int) -> int:
    """The error code."""
    return ask(words, clock, WHOLE, PRC, 0x20D | knob << 16, value)[4]


def complaint(gpu: EmulatedDevice) -> str:
    """The only one."""
    assert len(gpu.complaints) == 1, gpu.complaints
    return gpu.complaints[0]
