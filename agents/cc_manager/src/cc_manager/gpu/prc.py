"""Reading and writing the firmware's knobs over whichever transport the chip has.

Requests and answers: facts/fsp-and-cc-mode.md section 4.
"""

from collections.abc import Sequence
from typing import Protocol

from cc_manager.errors import NO_SUCH_KNOB, FirmwareError, FspFault
from cc_manager.gpu.knobs import Knob, KnobWrite
from cc_manager.gpu.mctp import NVDM_PRC, Answer, Packet, parse_answer, request_packets
from nodelib.pci import PciAddress

_READ = 0x0C
_WRITE = 0x0D
_KNOB_OBJECT = 0x2


class Transport(Protocol):
    """Carries one message to the FSP and its answer back."""

    @property
    def packet_bytes(self) -> int:
        """The largest packet, headers included."""

    def exchange(self, packets: Sequence[Packet]) -> tuple[int, ...]:
        """The words of the answer. Raises FspFault."""

    def close(self) -> None:
        """Forget what is under way; the next exchange begins afresh."""


class Prc:
    """The firmware's knobs of the device at *address*."""

    def __init__(self, address: PciAddress, transport: Transport) -> None:
        self._address = address
        self._transport = transport

    def read_knob(self, knob: Knob) -> int | None:
        """The knob's value as staged, None where the firmware does not have it. Raises FirmwareError."""
        asked = f"read {knob.text}"
        answer = self._ask(asked, (_READ | _KNOB_OBJECT << 8 | knob << 16,), data_words=1)
        if answer.code == NO_SUCH_KNOB:
            return None
        self._refuse_error(asked, answer)
        return answer.data[0] & 0xFFFF  # the upper half may be rubbish

    def write_knob(self, write: KnobWrite) -> None:
        """Stage one knob for the next reset. Raises FirmwareError."""
        asked = str(write)
        payload = (_WRITE | _KNOB_OBJECT << 8 | write.knob << 16, write.value)
        self._refuse_error(asked, self._ask(asked, payload, data_words=0))

    def _ask(self, asked: str, payload: tuple[int, ...], data_words: int) -> Answer:
        """The answer: an error, or a success with *data_words* words of data."""
        try:
            words = self._transport.exchange(request_packets(NVDM_PRC, payload, self._transport.packet_bytes))
            return parse_answer(words, NVDM_PRC, data_words)
        except FspFault as fault:
            self._transport.close()  # this may have been the answer to something else, with ours still to come
            remedy = "reset the device, or power-cycle the node if that does not help"
            raise FirmwareError(self._address, asked, str(fault), remedy=remedy) from fault

    def _refuse_error(self, asked: str, answer: Answer) -> None:
        if answer.code == NO_SUCH_KNOB:
            raise no_such_knob(self._address, asked)
        if answer.code:
            raise FirmwareError(self._address, asked, f"the FSP answered with error {answer.code:#x}", code=answer.code)


def no_such_knob(address: PciAddress, asked: str) -> FirmwareError:
    """The error for a knob that is needed and that the firmware does not have."""
    return FirmwareError(
        address,
        asked,
        f"this firmware does not have the knob (error {NO_SUCH_KNOB:#x})",
        code=NO_SUCH_KNOB,
        remedy="update the device's firmware",
    )
