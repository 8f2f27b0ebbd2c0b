"""The way to the FSP on Hopper GPUs and NVSwitches: packets in EMEM, announced through queues, on channel 2.

Registers, orders and time limits: facts/fsp-and-cc-mode.md section 3a.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cc_manager.clock import Clock
from cc_manager.errors import FspFault
from cc_manager.gpu.mctp import Packet
from cc_manager.gpu.registers import GONE, CheckedRegisters

CHANNEL_BYTES = 1024
SEND_TIMEOUT_S = 1.0
SEND_POLL_S = 0.001
ANSWER_TIMEOUT_S = 5.0
ANSWER_POLL_S = 0.010

_CHANNEL = 2
_BASE = _CHANNEL * CHANNEL_BYTES
"""Where the channel's part of EMEM begins; an empty queue's pointers stand here."""
_EMEM_CONTROL = 0x8F2AC0 + 8 * _CHANNEL
_EMEM_DATA = 0x8F2AC4 + 8 * _CHANNEL
_FROM_BASE = _BASE | 1 << 24 | 1 << 25
"""EMEM control: from the channel's first byte on, moving by a word with every write and every read of the data."""


@dataclass(frozen=True, slots=True)
class _Queue:
    head: int
    tail: int


_COMMANDS = _Queue(0x8F2C00 + 8 * _CHANNEL, 0x8F2C04 + 8 * _CHANNEL)
_MESSAGES = _Queue(0x8F2C80 + 8 * _CHANNEL, 0x8F2C84 + 8 * _CHANNEL)


class Emem:
    """Sends packets to the FSP and receives its answers, one at a time."""

    packet_bytes = CHANNEL_BYTES

    def __init__(self, registers: CheckedRegisters, clock: Clock) -> None:
        self._registers = registers
        self._clock = clock
        self._is_open = False

    def exchange(self, packets: Sequence[Packet]) -> tuple[int, ...]:
        """Send one message and return the words of the answer. Raises FspFault, DeviceGone or BusError."""
        if not self._is_open:
            self._open()
        # Whatever goes wrong from here on may leave an answer behind that would pass for the next one's.
        self._is_open = False
        for packet in packets:
            self._send(packet)
        answer = self._receive()
        self._is_open = True
        return answer

    def close(self) -> None:
        """Clear the queues before the next message: after a reset, and where question and answer fell out of step."""
        self._is_open = False

    def _open(self) -> None:
        if not (self._is_empty(_COMMANDS) and self._is_empty(_MESSAGES)):
            # Somebody was killed between question and answer. Clearing the queues before the FSP has answered would
            # make its late answer the first one that we see.
            self._clock.wait_until(lambda: not self._is_empty(_MESSAGES), ANSWER_TIMEOUT_S, ANSWER_POLL_S)
        for register in (_COMMANDS.tail, _COMMANDS.head, _MESSAGES.tail, _MESSAGES.head):
            self._registers.write32(register, _BASE)

    def _send(self, packet: Packet) -> None:
        if not self._clock.wait_until(self._can_send, SEND_TIMEOUT_S, SEND_POLL_S):
            raise FspFault(f"the FSP did not take an earlier command from its queue within {SEND_TIMEOUT_S:g} s")
        self._registers.write32(_EMEM_CONTROL, _FROM_BASE)
        for word in packet:
            self._registers.write32(_EMEM_DATA, word)
        self._registers.write32(_COMMANDS.tail, _BASE + (len(packet) - 1) * 4)
        self._registers.write32(_COMMANDS.head, _BASE)  # this rings the FSP's bell: it must come last

    def _can_send(self) -> bool:
        head = self._registers.read32(_MESSAGES.head)
        if head != self._registers.read32(_MESSAGES.tail):
            self._registers.write32(_MESSAGES.tail, head)  # a stale answer: acknowledged unread
        return self._is_empty(_COMMANDS)

    def _receive(self) -> tuple[int, ...]:
        if not self._clock.wait_until(lambda: not self._is_empty(_MESSAGES), ANSWER_TIMEOUT_S, ANSWER_POLL_S):
            raise FspFault(f"the FSP did not answer within {ANSWER_TIMEOUT_S:g} s")
        head, tail = self._registers.read32(_MESSAGES.head), self._registers.read32(_MESSAGES.tail)
        size = tail - head + 4
        is_possible = 0 < size <= CHANNEL_BYTES and size % 4 == 0
        answer = self._read_emem(size // 4) if is_possible else ()
        self._registers.write32(_MESSAGES.tail, head)  # acknowledged first, so that an error does not stay in the queue
        if not is_possible:
            raise FspFault(f"the FSP's message queue makes no sense (head {head:#x}, tail {tail:#x})")
        return answer

    def _read_emem(self, count: int) -> tuple[int, ...]:
        self._registers.write32(_EMEM_CONTROL, _FROM_BASE)
        words = tuple(self._registers.read_data32(_EMEM_DATA) for _ in range(count))
        if GONE in words:
            self._registers.read32(_MESSAGES.head)  # data or a device that left the bus? A pointer is never all ones
        return words

    def _is_empty(self, queue: _Queue) -> bool:
        return self._registers.read32(queue.head) == self._registers.read32(queue.tail)
