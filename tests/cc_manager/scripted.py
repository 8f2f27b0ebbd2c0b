"""A device's registers played from a script, word by word, and a time that only moves when it is slept through."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cc_manager.clock import Clock
from cc_manager.gpu.chips import HOPPER_GPU, NVSWITCH_GEN3
from cc_manager.gpu.hardware import Device
from cc_manager.gpu.registers import Registers
from nodelib.pci import PciAddress

ADDRESS = PciAddress(0, 0x3B, 0, 0)

COMMAND_HEAD, COMMAND_TAIL = 0x8F2C10, 0x8F2C14
MESSAGE_HEAD, MESSAGE_TAIL = 0x8F2C90, 0x8F2C94
EMEM_CONTROL, EMEM_DATA = 0x8F2AD0, 0x8F2AD4


@dataclass(frozen=True)
class Read:
    offset: int
    answer: int

    def __str__(self) -> str:
        return f"read {self.offset:#x}"


@dataclass(frozen=True)
class Write:
    offset: int
    value: int

    def __str__(self) -> str:
        return f"write {self.offset:#x} := {self.value:#x}"


Script = list[Read | Write]


class ScriptedRegisters:
    """Registers that accept exactly the accesses of *script*, in its order."""

    def __init__(self, script: Iterable[Read | Write]) -> None:
        self._left = list(script)
        self._done = 0

    def read32(self, offset: int) -> int:
        expected = self._next()
        assert isinstance(expected, Read), f"access {self._done}: read {offset:#x}, expected {expected}"
        assert offset == expected.offset, f"access {self._done}: read {offset:#x}, expected {expected}"
        return expected.answer

    def write32(self, offset: int, value: int) -> None:
        expected = self._next()
        assert expected == Write(offset, value), f"access {self._done}: {Write(offset, value)}, expected {expected}"

    def _next(self) -> Read | Write:
        assert self._left, f"access {self._done + 1} is beyond the end of the script"
        self._done += 1
        return self._left.pop(0)

    def assert_finished(self) -> None:
        assert not self._left, f"never done: {[str(access) for access in self._left]}"


@contextmanager
def played(script: Iterable[Read | Write]) -> Iterator[ScriptedRegisters]:
    """Registers for *script*, all of which must have been played at the end."""
    registers = ScriptedRegisters(script)
    yield registers
    registers.assert_finished()


class ConstantRegisters:
    """Registers that always read the same, for waits that end in a time-out; a function is asked each time."""

    def __init__(self, values: dict[int, int | Callable[[], int]]) -> None:
        self._values = values
        self.writes: list[Write] = []

    def read32(self, offset: int) -> int:
        value = self._values[offset]
        return value() if callable(value) else value

    def write32(self, offset: int, value: int) -> None:
        self.writes.append(Write(offset, value))


@dataclass
class FakeTime:
    """Time in which each sleep takes at least what was asked: *lag_s* more, as on a loaded machine."""

    lag_s: float = 0
    slept: list[float] = field(default_factory=list)
    now: float = 100.0

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now = round(self.now + seconds + self.lag_s, 6)

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.now, sleep=self.sleep)


def queue(head_register: int, pointers: tuple[int, int]) -> Script:
    """One look at a queue: its head, then its tail."""
    head, tail = pointers
    return [Read(head_register, head), Read(head_register + 4, tail)]


EMPTY = (0x800, 0x800)

OPENING: Script = [
    *queue(COMMAND_HEAD, (0, 0)),
    *queue(MESSAGE_HEAD, (0, 0)),
    Write(COMMAND_TAIL, 0x800),
    Write(COMMAND_HEAD, 0x800),
    Write(MESSAGE_TAIL, 0x800),
    Write(MESSAGE_HEAD, 0x800),
]
"""The channel opened where both queues are empty."""


def sending(*words: int) -> Script:
    """One packet handed to the FSP, both queues being empty."""
    return [
        *queue(MESSAGE_HEAD, EMPTY),
        *queue(COMMAND_HEAD, EMPTY),
        Write(EMEM_CONTROL, 0x0300_0800),
        *(Write(EMEM_DATA, word) for word in words),
        Write(COMMAND_TAIL, 0x800 + 4 * (len(words) - 1)),
        Write(COMMAND_HEAD, 0x800),
    ]


def receiving(*words: int) -> Script:
    """One answer that is there at the first look."""
    pointers = (0x800, 0x800 + 4 * (len(words) - 1))
    return [
        *queue(MESSAGE_HEAD, pointers),
        *queue(MESSAGE_HEAD, pointers),
        Write(EMEM_CONTROL, 0x0300_0800),
        *(Read(EMEM_DATA, word) for word in words),
        Write(MESSAGE_TAIL, 0x800),
    ]


def answer(*data: int, code: int = 0) -> tuple[int, ...]:
    """The words of the FSP's answer to a PRC request."""
    return (0xC000_0000, 0x1510_DE7E, 0x0000_0000, 0x0000_0013, code, *data)


def knob_read(request: int, value: int | None) -> Script:
    """A knob read, *request* being its payload word; None: the firmware does not have the knob."""
    reply = answer(code=0x1E3) if value is None else answer(value)
    return [*sending(0xC000_0000, 0x1310_DE7E, request), *receiving(*reply)]


def knob_written(request: int, value: int) -> Script:
    """A knob write, *request* being its first payload word."""
    return [*sending(0xC000_0000, 0x1310_DE7E, request, value), *receiving(*answer())]


GPU_IDENTITY = 0x1800_00A1
SWITCH_IDENTITY = 0x0070_00A1

GPU_HEALTHY: Script = [Read(0x0, GPU_IDENTITY), Read(0x20120, 0)]
GPU_BUS_SETUP: Script = [Write(0x12004C, 4), Write(0x122204, 2)]
GPU_BOOTED: Script = [Read(0x200BC, 0xFF)]
GPU_READY: Script = [*GPU_HEALTHY, *GPU_BUS_SETUP, *GPU_BOOTED, *OPENING]
"""From opening the device to the first request."""
GPU_READY_AGAIN: Script = [*GPU_HEALTHY, *GPU_BOOTED]

SWITCH_READY: Script = [Read(0x0, SWITCH_IDENTITY), Read(0x66120, 0), Read(0x660BC, 0xFF), *OPENING]


def gpu(registers: Registers, time: FakeTime | None = None) -> Device:
    return Device(ADDRESS, HOPPER_GPU, registers, (time or FakeTime()).clock)


def switch(registers: Registers) -> Device:
    return Device(ADDRESS, NVSWITCH_GEN3, registers, FakeTime().clock)
