"""The transport of Hopper and the NVSwitch: EMEM behind eight ports, and the queues of eight channels.

Facts, section 3a. Time passes only in `settle`, which the device calls before every access.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from tests.fakes.gpu.faults import Faults
from tests.fakes.gpu.fsp import Fsp
from tests.fakes.gpu.transport import ANSWER_LIMIT_S, BUS_ERROR, Complain, Latencies, Message

CHANNELS = 8
FSP_CHANNEL = 2
WINDOW_BYTES = 1024
EMEMC, EMEMD = 0x8F2AC0, 0x8F2AC4
COMMAND_HEAD, COMMAND_TAIL, MESSAGE_HEAD, MESSAGE_TAIL = 0x8F2C00, 0x8F2C04, 0x8F2C80, 0x8F2C84
STRIDE = 8

INCREMENT_ON_WRITE, INCREMENT_ON_READ = 1 << 24, 1 << 25
OFFSET_BITS = 0xFFFFFF


class Register(Enum):
    EMEM_CONTROL = auto()
    EMEM_DATA = auto()
    COMMAND_TAIL = auto()
    COMMAND_HEAD = auto()
    MESSAGE_TAIL = auto()
    MESSAGE_HEAD = auto()


QUEUES = (
    Register.COMMAND_TAIL,
    Register.COMMAND_HEAD,
    Register.MESSAGE_TAIL,
    Register.MESSAGE_HEAD,
)


@dataclass(slots=True)
class Port:
    control: int = 0
    needs_control: bool = True
    """EMEMC "is written before every packet and before every answer, and always after a reset"."""


class Channel:
    def __init__(self, number: int) -> None:
        self.base = number * WINDOW_BYTES
        self.queues = dict.fromkeys(QUEUES, 0)
        self.last_writes: deque[tuple[Register, int]] = deque(maxlen=len(QUEUES))
        self.is_open = False
        self.port = Port()

    @property
    def has_command(self) -> bool:
        return self.queues[Register.COMMAND_HEAD] != self.queues[Register.COMMAND_TAIL]

    @property
    def has_message(self) -> bool:
        return self.queues[Register.MESSAGE_HEAD] != self.queues[Register.MESSAGE_TAIL]

    def is_opening(self, upto: Register) -> bool:
        """The writes so far are those that open a channel, in their order, and none between them."""
        wanted = [(queue, self.base) for queue in QUEUES[: QUEUES.index(upto) + 1]]
        return list(self.last_writes)[-len(wanted) :] == wanted

    def last_word(self, words: int) -> int:
        return self.base + (words - 1) * 4


def _registers() -> dict[int, tuple[int, Register]]:
    places = {
        EMEMC: Register.EMEM_CONTROL,
        EMEMD: Register.EMEM_DATA,
        COMMAND_HEAD: Register.COMMAND_HEAD,
        COMMAND_TAIL: Register.COMMAND_TAIL,
        MESSAGE_HEAD: Register.MESSAGE_HEAD,
        MESSAGE_TAIL: Register.MESSAGE_TAIL,
    }
    return {
        place + STRIDE * number: (number, register) for place, register in places.items() for number in range(CHANNELS)
    }


class EmemTransport:
    def __init__(self, fsp: Fsp, faults: Faults, complain: Complain, latencies: Latencies) -> None:
        self._fsp = fsp
        self._faults = faults
        self._complain = complain
        self._latencies = latencies
        self._registers = _registers()
        self.clear()

    def clear(self) -> None:
        self._emem = [0] * (CHANNELS * WINDOW_BYTES // 4)
        self._channels = [Channel(number) for number in range(CHANNELS)]
        self._fsp_listens = False
        self._bell: float | None = None
        self._asked: float | None = None
        self._outgoing: deque[Message] = deque()

    def meet_client(self) -> None:
        """Nothing: here a client opens the channel."""

    def wake_up(self) -> None:
        """Nothing is lost: EMEM is memory."""

    def owns(self, offset: int) -> bool:
        return offset in self._registers

    def settle(self, now: float, *, fsp_listens: bool) -> None:
        self._fsp_listens = fsp_listens
        if not fsp_listens:
            return
        self._leave_behind(now)
        if self._faults.fsp_is_hung:
            return
        if self._bell is not None and now >= self._bell + self._latencies.take:
            self._take(self._bell)
        # A firmware of one thread takes a packet before it answers an older one: an answer never
        # overwrites, in the EMEM that both share, a packet whose bell has rung.
        channel = self._channels[FSP_CHANNEL]
        is_due = bool(self._outgoing) and self._outgoing[0].due <= now
        if is_due and self._bell is None and not channel.has_message:
            self._post(channel, self._outgoing.popleft().words)

    def read(self, offset: int) -> int:
        number, register = self._registers[offset]
        channel = self._channels[number]
        if register is Register.EMEM_CONTROL:
            return channel.port.control
        if register is Register.EMEM_DATA:
            place = self._emem_place(number, INCREMENT_ON_READ)
            return BUS_ERROR if place is None else self._emem[place]
        return channel.queues[register]

    def write(self, offset: int, value: int, now: float) -> None:
        number, register = self._registers[offset]
        channel = self._channels[number]
        if register is Register.EMEM_CONTROL:
            self._point(number, value)
        elif register is Register.EMEM_DATA:
            place = self._emem_place(number, INCREMENT_ON_WRITE)
            if place is not None:
                self._emem[place] = value
        else:
            self._check_queue_write(channel, register, value)
            channel.queues[register] = value
            if register is Register.COMMAND_HEAD and channel.has_command:
                self._ring(channel, number, now)

    def _point(self, number: int, value: int) -> None:
        port = self._channels[number].port
        port.control = value
        port.needs_control = False
        if value & ~(OFFSET_BITS | INCREMENT_ON_WRITE | INCREMENT_ON_READ):
            self._complain(f"EMEMC of port {number} := {value:#010x}: bits that mean nothing")

    def _emem_place(self, number: int, increment: int) -> int | None:
        channel = self._channels[number]
        port = channel.port
        if port.needs_control:
            self._complain(f"EMEMD of port {number} used before EMEMC was written anew")
            port.needs_control = False
        offset = port.control & OFFSET_BITS
        if port.control & increment:
            port.control = port.control & ~OFFSET_BITS | offset + 4 & OFFSET_BITS
        if offset % 4 or not 0 <= offset - channel.base < WINDOW_BYTES:
            self._complain(f"EMEM offset {offset:#x} is not in the window of channel {number}")
            return None
        return offset // 4

    def _check_queue_write(self, channel: Channel, register: Register, value: int) -> None:
        channel.last_writes.append((register, value))
        what = f"{register.name.lower()} := {value:#x}"
        if register is Register.COMMAND_TAIL:
            # Every tail but an opening's announces a packet.
            if channel.has_command and value != channel.base:
                self._complain(f"{what} while the command queue is not empty")
        elif register is Register.COMMAND_HEAD:
            if value != channel.base:
                self._complain(f"{what}: packets begin at {channel.base:#x}")
        elif register is Register.MESSAGE_TAIL:
            channel.port.needs_control = True
            if value != channel.queues[Register.MESSAGE_HEAD] and not channel.is_opening(register):
                self._complain(f"{what} is not the message head and opens no channel")
        elif channel.is_opening(register):
            channel.is_open = True
            # Who opens a channel does not answer for what a killed tool began on it.
            self._asked = None
            self._fsp.clear()
        else:
            self._complain(f"{what} opens no channel: the writes before it are others")

    def _ring(self, channel: Channel, number: int, now: float) -> None:
        if number != FSP_CHANNEL:
            self._complain(f"a packet on channel {number}, which is not the FSP's")
            return
        if not channel.is_open:
            self._complain("a packet on a channel that was not opened since the reset")
        if channel.has_message:
            self._complain("a packet while a message is not acknowledged")
        elif self._asked is not None and now < self._asked + ANSWER_LIMIT_S:
            self._complain("a packet while the previous request is not answered")
        if channel.port.needs_control:
            self._complain("a packet before EMEMC was written anew")
        channel.port.needs_control = True
        if self._fsp_listens:
            self._bell = now

    def _take(self, rung: float) -> None:
        self._bell = None
        channel = self._channels[FSP_CHANNEL]
        head = channel.queues[Register.COMMAND_HEAD]
        size = channel.queues[Register.COMMAND_TAIL] - head + 4
        # Who consumes a queue empties it by tail := head, as the host does with messages.
        channel.queues[Register.COMMAND_TAIL] = head
        if size == 4:
            return  # opened anew before the packet was taken
        if head != channel.base or size % 4 or not 0 < size <= WINDOW_BYTES:
            self._complain(f"a packet of {size} bytes at {head:#x} is not one in the window")
            return
        answer = self._fsp.take(self._emem[head // 4 : (head + size) // 4])
        if answer is None:
            return
        self._asked = rung
        if not self._fsp.is_silent:
            self._outgoing.append(Message(rung + self._latencies.answer, answer))

    def _post(self, channel: Channel, words: tuple[int, ...]) -> None:
        self._asked = None
        self._put(channel, words)
        channel.queues[Register.MESSAGE_HEAD] = channel.base
        size = self._faults.answer_size
        channel.queues[Register.MESSAGE_TAIL] = (
            channel.last_word(len(words)) if size is None else channel.base + size - 4
        )

    def _put(self, channel: Channel, words: tuple[int, ...]) -> None:
        assert 2 <= len(words) <= WINDOW_BYTES // 4, "the queue registers cannot tell this size"
        start = channel.base // 4
        self._emem[start : start + len(words)] = words

    def _leave_behind(self, now: float) -> None:
        channel = self._channels[FSP_CHANNEL]
        if self._faults.left_in_queue:
            words, self._faults.left_in_queue = self._faults.left_in_queue, ()
            self._put(channel, words)
            channel.queues[Register.COMMAND_HEAD] = channel.base
            channel.queues[Register.COMMAND_TAIL] = channel.last_word(len(words))
        if self._faults.stale_answer:
            words, self._faults.stale_answer = self._faults.stale_answer, ()
            self._outgoing.append(Message(now + self._faults.stale_after_s, words))
