"""Knob requests and their answers over a transport."""

from collections.abc import Sequence

import pytest

from cc_manager.errors import FirmwareError, FspFault
from cc_manager.gpu.knobs import Knob, KnobWrite
from cc_manager.gpu.mctp import Packet
from cc_manager.gpu.prc import Prc
from tests.cc_manager.scripted import ADDRESS, answer


class ScriptedTransport:
    """Answers one request after the other with what it was given."""

    packet_bytes = 1024

    def __init__(self, *answers: tuple[int, ...] | FspFault) -> None:
        self._answers = list(answers)
        self.sent: list[list[Packet]] = []
        self.closed = 0

    def exchange(self, packets: Sequence[Packet]) -> tuple[int, ...]:
        self.sent.append(list(packets))
        reply = self._answers.pop(0)
        if isinstance(reply, FspFault):
            raise reply
        return reply

    def close(self) -> None:
        self.closed += 1


def test_reading_a_knob_sends_its_three_words_and_returns_the_lower_half() -> None:
    transport = ScriptedTransport(answer(0xABCD_0001))
    assert Prc(ADDRESS, transport).read_knob(Knob.CC) == 1
    assert transport.sent == [[(0xC000_0000, 0x1310_DE7E, 0x0008_020C)]]


def test_writing_a_knob_sends_its_four_words() -> None:
    transport = ScriptedTransport(answer())
    Prc(ADDRESS, transport).write_knob(KnobWrite(Knob.DECOUPLER, 2))
    assert transport.sent == [[(0xC000_0000, 0x1310_DE7E, 0x000A_020D, 0x0000_0002)]]


@pytest.mark.parametrize(
    ("knob", "word"),
    [(Knob.RESTRICTION_2, 0x0002_020C), (Knob.RESTRICTION_34, 0x0022_020C), (Knob.PPCIE, 0x002D_020C)],
)
def test_the_knobs_number_is_in_the_upper_half(knob: Knob, word: int) -> None:
    transport = ScriptedTransport(answer(0))
    Prc(ADDRESS, transport).read_knob(knob)
    assert transport.sent == [[(0xC000_0000, 0x1310_DE7E, word)]]


def test_a_knob_that_the_firmware_does_not_have_reads_as_none() -> None:
    transport = ScriptedTransport(answer(code=0x1E3))
    assert Prc(ADDRESS, transport).read_knob(Knob.PPCIE) is None
    assert transport.closed == 0


def test_writing_a_knob_that_the_firmware_does_not_have_is_an_error_with_a_remedy() -> None:
    with pytest.raises(FirmwareError) as caught:
        Prc(ADDRESS, ScriptedTransport(answer(code=0x1E3))).write_knob(KnobWrite(Knob.PPCIE, 1))
    assert str(caught.value) == (
        "0000:3b:00.0: could not set knob 45 (ppcie) to 1: this firmware does not have the knob (error 0x1e3); "
        "update the device's firmware"
    )
    assert caught.value.code == 0x1E3


def test_any_other_error_is_told_in_hex_with_what_was_asked() -> None:
    with pytest.raises(FirmwareError) as caught:
        Prc(ADDRESS, ScriptedTransport(answer(code=0x33))).read_knob(Knob.CC)
    assert str(caught.value) == "0000:3b:00.0: could not read knob 8 (cc): the FSP answered with error 0x33"
    assert (caught.value.address, caught.value.asked, caught.value.code) == (ADDRESS, "read knob 8 (cc)", 0x33)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (FspFault("the FSP did not answer within 5 s"), "the FSP did not answer within 5 s"),
        ((), "the FSP's answer has 0 words"),
        (answer()[:4], "the FSP's answer has 4 words"),
        ((0xC000_0000, 0x1310_DE7E, 0x0, 0x13, 0x0, 0x1), "NVDM type 0x13"),
        ((0xC000_0000, 0x1510_DE7E, 0x0, 0x14, 0x0, 0x1), "answered a request of type 0x14"),
        (answer(), "carries 0 data words and not 1"),
        (answer(1, 2), "carries 2 data words and not 1"),
    ],
)
def test_an_exchange_that_failed_is_told_and_the_next_one_begins_afresh(
    reply: tuple[int, ...] | FspFault, reason: str
) -> None:
    transport = ScriptedTransport(reply)
    with pytest.raises(FirmwareError) as caught:
        Prc(ADDRESS, transport).read_knob(Knob.CC)
    text = str(caught.value)
    assert text.startswith("0000:3b:00.0: could not read knob 8 (cc): ")
    assert reason in text
    assert text.endswith("; reset the device, or power-cycle the node if that does not help")
    assert caught.value.code is None
    assert transport.closed == 1


def test_a_write_that_is_answered_with_data_was_answered_for_something_else() -> None:
    transport = ScriptedTransport(answer(1))
    with pytest.raises(FirmwareError, match="carries 1 data words and not 0"):
        Prc(ADDRESS, transport).write_knob(KnobWrite(Knob.CC, 1))
    assert transport.closed == 1
