"""MCTP packets to the FSP and the words of its answers. Pure.

Layouts: facts/fsp-and-cc-mode.md section 3, after NVIDIA's open GPU administration tools.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cc_manager.errors import FspFault

NVDM_PRC = 0x13
NVDM_RESPONSE = 0x15

Packet = tuple[int, ...]
"""The 32-bit words of one packet, its MCTP header first."""

_WORD_BYTES = 4
_START = 1 << 31
_END = 1 << 30
_SEQUENCE_SHIFT = 28
_TYPE_VENDOR_PCI = 0x7E
_VENDOR_NVIDIA = 0x10DE
_ANSWER_HEADERS = 5


def request_packets(nvdm_type: int, payload: Sequence[int], packet_bytes: int) -> tuple[Packet, ...]:
    """The message with *payload*, cut into packets of at most *packet_bytes*, headers included.

    The message header goes only into the first packet; an MCTP header, with a sequence number modulo 4, into each.
    Version, endpoints, tag and tag owner are 0.
    """
    message = (nvdm_type << 24 | _VENDOR_NVIDIA << 8 | _TYPE_VENDOR_PCI, *payload)
    room = packet_bytes // _WORD_BYTES - 1
    parts = [message[at : at + room] for at in range(0, len(message), room)]
    last = len(parts) - 1
    return tuple((_mctp_header(index, is_last=index == last), *part) for index, part in enumerate(parts))


def _mctp_header(index: int, *, is_last: bool) -> int:
    start = _START if index == 0 else 0
    end = _END if is_last else 0
    return start | end | index % 4 << _SEQUENCE_SHIFT


@dataclass(frozen=True, slots=True)
class Answer:
    """What the FSP answered to one request."""

    code: int
    """0 is success."""
    data: tuple[int, ...]


def parse_answer(words: Sequence[int], nvdm_type: int, data_words: int) -> Answer:
    """The answer to a request of *nvdm_type*: an error, or a success with *data_words* words of data.

    Raises FspFault where it is neither. The order of the checks is the documented one.
    """
    if len(words) < _ANSWER_HEADERS:
        raise FspFault(f"the FSP's answer has {len(words)} words, fewer than {_ANSWER_HEADERS}")
    if (found := words[1] >> 24) != NVDM_RESPONSE:
        raise FspFault(f"the FSP sent a message of NVDM type {found:#04x} and not a response ({NVDM_RESPONSE:#04x})")
    if words[3] != nvdm_type:
        raise FspFault(f"the FSP answered a request of type {words[3]:#04x}, but {nvdm_type:#04x} was asked")
    answer = Answer(words[4], tuple(words[_ANSWER_HEADERS:]))
    if not answer.code and len(answer.data) != data_words:
        raise FspFault(f"the FSP's answer carries {len(answer.data)} data words and not {data_words}")
    return answer
