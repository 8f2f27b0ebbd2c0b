"""The way to the FSP on Blackwell GPUs: packets through a mailbox, port 0 of the MNOC.

Registers, orders and time limits: facts/fsp-and-cc-mode.md section 3b.
"""

from collections.abc import Sequence

from cc_manager.clock import Clock
from cc_manager.errors import FspFault
from cc_manager.gpu.mctp import Packet
from cc_manager.gpu.registers import CheckedRegisters

PACKET_BYTES = 4160
READY_TIMEOUT_S = 5.0
CREDITS_TIMEOUT_S = 1.0
ANSWER_TIMEOUT_S = 5.0
POLL_S = 0.001

_TO_DEVICE = 0x8F1E00 + 0x184
_WRITE_DATA = _TO_DEVICE + 4
_FROM_DEVICE = 0x8F1E00 + 0x104
_READ_DATA = _FROM_DEVICE + 4

_READY = 1 << 24
"""To the device: it can take an announcement. From the device: a message is there."""
_ERROR = 1 << 25
_HAS_CREDITS = 1 << 26
_ANNOUNCE = 1 << 20
"""Written with the size. The bits above stay 0: bit 30 would switch interrupts on, bit 31 would clear one."""
_SIZE = (1 << 20) - 1
_CREDIT_WORDS = 64 // 4
"""How much may be written for one look at the credits."""
_MOST_STALE = 16


class Mnoc:
    """Sends packets to the FSP and receives its answers, one at a time."""

    packet_bytes = PACKET_BYTES

    def __init__(self, registers: CheckedRegisters, clock: Clock) -> None:
        self._registers = registers
        self._clock = clock
        self._is_in_step = False

    def exchange(self, packets: Sequence[Packet]) -> tuple[int, ...]:
        """Send one message and return the words of the answer. Raises FspFault, DeviceGone or BusError."""
        if not self._is_in_step:
            self._drop_stale()
        # Whatever goes wrong from here on may leave an answer behind that would pass for the next one's.
        self._is_in_step = False
        for packet in packets:
            self._send(packet)
        answer = self._receive()
        self._is_in_step = True
        return answer

    def close(self) -> None:
        """Look for stale answers before the next message: nobody knows who asked before, or how far he came."""
        self._is_in_step = False

    def _drop_stale(self) -> None:
        """Read away what the FSP answered to somebody who was killed before he read it.

        The mailbox has no other way to be emptied. The FSP is asked to be ready first: while it works on an earlier
        message, its answer is still to come.
        """
        self._wait_to_send()
        for _ in range(_MOST_STALE):
            if not (info := self._registers.read32(_FROM_DEVICE)) & _READY:
                return
            self._read_message(info)
        raise FspFault(f"the FSP's mailbox holds more than {_MOST_STALE} messages that nobody asked for")

    def _send(self, packet: Packet) -> None:
        self._wait_to_send()
        self._registers.write32(_TO_DEVICE, len(packet) * 4 | _ANNOUNCE)
        for at in range(0, len(packet), _CREDIT_WORDS):
            self._wait(_TO_DEVICE, _HAS_CREDITS, CREDITS_TIMEOUT_S, "take more of a message")
            for word in packet[at : at + _CREDIT_WORDS]:
                self._registers.write32(_WRITE_DATA, word)
        self._refuse_error(_TO_DEVICE, self._registers.read32(_TO_DEVICE))

    def _wait_to_send(self) -> None:
        self._refuse_error(_TO_DEVICE, self._registers.read32(_TO_DEVICE))
        self._wait(_TO_DEVICE, _READY, READY_TIMEOUT_S, "become ready for a message")

    def _receive(self) -> tuple[int, ...]:
        return self._read_message(self._wait(_FROM_DEVICE, _READY, ANSWER_TIMEOUT_S, "answer"))

    def _read_message(self, info: int) -> tuple[int, ...]:
        size = info & _SIZE
        if size % 4 or not 0 < size <= PACKET_BYTES:
            self._refuse_error(_FROM_DEVICE, info)
            raise FspFault(f"the FSP's mailbox makes no sense: it announces {size} bytes (info {info:#010x})")
        words = tuple(self._registers.read32(_READ_DATA) for _ in range(size // 4))
        self._refuse_error(_FROM_DEVICE, self._registers.read32(_FROM_DEVICE))
        return words

    def _wait(self, register: int, bit: int, timeout_s: float, what: str) -> int:
        """The info word with *bit* set. Raises FspFault if it is not set within *timeout_s*."""
        info = 0

        def is_set() -> bool:
            nonlocal info
            info = self._registers.read32(register)
            return bool(info & bit)

        if not self._clock.wait_until(is_set, timeout_s, POLL_S):
            self._refuse_error(register, info)  # it says more than "timed out"
            raise FspFault(f"the FSP did not {what} within {timeout_s:g} s (mailbox info {info:#010x})")
        return info

    def _refuse_error(self, register: int, info: int) -> None:
        if info & _ERROR:
            way = "to" if register == _TO_DEVICE else "from"
            raise FspFault(f"the mailbox {way} the FSP reports an error (info {info:#010x})")
