"""Blackwell's mailbox, access by access: what is announced, when it is waited, and what an error bit means."""

import pytest

from cc_manager.errors import BusError, FspFault
from cc_manager.gpu.mctp import NVDM_PRC, request_packets
from cc_manager.gpu.mnoc import Mnoc
from cc_manager.gpu.registers import CheckedRegisters, Registers
from nodelib.errors import DeviceGone
from tests.cc_manager.mailbox_script import (
    CREDITS,
    FROM_DEVICE,
    FROM_ERROR,
    NOBODY_ASKED,
    NOTHING,
    READ_DATA,
    READY,
    TO_DEVICE,
    TO_ERROR,
    WRITE_DATA,
    answered,
    mailed,
)
from tests.cc_manager.scripted import ADDRESS, ConstantRegisters, FakeTime, Read, Script, Write, played

REQUEST = (0xC000_0000, 0x1310_DE7E, 0x0008_020C)
"""Read knob 8, whole in one packet."""
ANSWER = (0xC000_0000, 0x1510_DE7E, 0x0000_0000, 0x0000_0013, 0x0000_0000, 0x0000_0001)


def mnoc(registers: Registers, time: FakeTime | None = None) -> Mnoc:
    return Mnoc(CheckedRegisters(ADDRESS, registers), (time or FakeTime()).clock)


# --- the way it goes


def test_reading_knob_8_word_by_word() -> None:
    script: Script = [
        Read(0x8F1F84, 0x0100_0000), Read(0x8F1F84, 0x0100_0000), Read(0x8F1F04, 0x0000_0000),
        Read(0x8F1F84, 0x0100_0000), Read(0x8F1F84, 0x0100_0000),
        Write(0x8F1F84, 0x0010_000C),  # 12 bytes come
        Read(0x8F1F84, 0x0400_0000),  # credits
        Write(0x8F1F88, 0xC000_0000), Write(0x8F1F88, 0x1310_DE7E), Write(0x8F1F88, 0x0008_020C),
        Read(0x8F1F84, 0x0100_0000),  # no error
        Read(0x8F1F04, 0x0100_0018),  # 24 bytes are there
        Read(0x8F1F08, 0xC000_0000), Read(0x8F1F08, 0x1510_DE7E), Read(0x8F1F08, 0x0000_0000),
        Read(0x8F1F08, 0x0000_0013), Read(0x8F1F08, 0x0000_0000), Read(0x8F1F08, 0x0000_0001),
        Read(0x8F1F04, 0x0000_0000),  # no error
    ]  # fmt: skip
    with played(script) as registers:
        assert mnoc(registers).exchange([REQUEST]) == ANSWER


def test_the_second_message_begins_without_a_look_for_stale_ones() -> None:
    script = [*NOBODY_ASKED, *mailed(*REQUEST), *answered(*ANSWER), *mailed(*REQUEST), *answered(*ANSWER)]
    with played(script) as registers:
        transport = mnoc(registers)
        assert [transport.exchange([REQUEST]) for _ in range(2)] == [ANSWER, ANSWER]


def test_after_a_reset_stale_answers_are_looked_for_again() -> None:
    once = [*NOBODY_ASKED, *mailed(*REQUEST), *answered(*ANSWER)]
    with played([*once, *once]) as registers:
        transport = mnoc(registers)
        transport.exchange([REQUEST])
        transport.close()
        transport.exchange([REQUEST])


def test_credits_are_waited_for_before_each_64_bytes() -> None:
    packet = tuple(range(100, 134))  # 34 words: 16, 16 and 2
    script = [
        *NOBODY_ASKED,
        Read(TO_DEVICE, READY), Read(TO_DEVICE, READY), Write(TO_DEVICE, 0x0010_0088),
        Read(TO_DEVICE, NOTHING), Read(TO_DEVICE, CREDITS), *(Write(WRITE_DATA, word) for word in range(100, 116)),
        Read(TO_DEVICE, CREDITS), *(Write(WRITE_DATA, word) for word in range(116, 132)),
        Read(TO_DEVICE, NOTHING), Read(TO_DEVICE, NOTHING), Read(TO_DEVICE, CREDITS),
        Write(WRITE_DATA, 132), Write(WRITE_DATA, 133),
        Read(TO_DEVICE, READY),
        *answered(*ANSWER),
    ]  # fmt: skip
    time = FakeTime()
    with played(script) as registers:
        mnoc(registers, time).exchange([packet])
    assert time.slept == [0.001] * 3


def test_a_message_of_two_packets_each_announced_by_itself() -> None:
    """1,041 payload words: 1,038 and the two headers fill 4,160 bytes, the other three follow under a header."""
    payload = range(1, 1042)
    packets = request_packets(NVDM_PRC, tuple(payload), Mnoc.packet_bytes)
    first = (0x8000_0000, 0x1310_DE7E, *range(1, 1039))
    second = (0x5000_0000, 1039, 1040, 1041)
    assert packets == (first, second)
    script: Script = [*NOBODY_ASKED, Read(TO_DEVICE, READY), Read(TO_DEVICE, READY), Write(TO_DEVICE, 0x0010_1040)]
    for at in range(0, 1040, 16):
        script += [Read(TO_DEVICE, CREDITS), *(Write(WRITE_DATA, word) for word in first[at : at + 16])]
    script += [Read(TO_DEVICE, READY), *mailed(*second), *answered(*ANSWER)]
    with played(script) as registers:
        assert mnoc(registers).exchange(packets) == ANSWER


# --- what was there before


def test_a_stale_answer_is_read_away_and_not_taken_for_ours() -> None:
    """Its reader was killed; it is whole and valid, and says that some knob is 0."""
    stale = (*ANSWER[:-1], 0x0000_0000)
    script = [
        Read(TO_DEVICE, READY), Read(TO_DEVICE, READY),
        *answered(*stale), Read(FROM_DEVICE, NOTHING),
        *mailed(*REQUEST), *answered(*ANSWER),
    ]  # fmt: skip
    with played(script) as registers:
        assert mnoc(registers).exchange([REQUEST])[-1] == 1


def test_an_answer_that_came_too_late_is_read_away_before_the_next_request() -> None:
    silent = [Read(FROM_DEVICE, NOTHING), Read(FROM_DEVICE, NOTHING)]  # before and after a sleep beyond the limit
    script = [
        *NOBODY_ASKED, *mailed(*REQUEST), *silent,
        Read(TO_DEVICE, READY), Read(TO_DEVICE, READY), *answered(*ANSWER), Read(FROM_DEVICE, NOTHING),
        *mailed(*REQUEST), *answered(*ANSWER),
    ]  # fmt: skip
    with played(script) as registers:
        transport = mnoc(registers, FakeTime(lag_s=60))
        with pytest.raises(FspFault, match="did not answer"):
            transport.exchange([REQUEST])
        assert transport.exchange([REQUEST]) == ANSWER


def test_a_mailbox_that_never_empties_is_given_up() -> None:
    constant = ConstantRegisters({TO_DEVICE: READY, FROM_DEVICE: 0x0100_0004, READ_DATA: 0})
    with pytest.raises(FspFault, match="holds more than 16 messages that nobody asked for"):
        mnoc(constant).exchange([REQUEST])
    assert constant.writes == []


# --- time-outs and errors


def test_an_fsp_that_never_becomes_ready_is_given_up_after_five_seconds_and_nothing_was_written() -> None:
    constant = ConstantRegisters({TO_DEVICE: 0x0040_0000})
    time = FakeTime()
    with pytest.raises(FspFault, match=r"did not become ready for a message within 5 s \(mailbox info 0x00400000\)"):
        mnoc(constant, time).exchange([REQUEST])
    assert time.slept == [0.001] * 5000
    assert constant.writes == []


def test_an_fsp_that_gives_no_credits_is_given_up_after_a_second() -> None:
    constant = ConstantRegisters({TO_DEVICE: READY, FROM_DEVICE: NOTHING})
    time = FakeTime()
    with pytest.raises(FspFault, match="did not take more of a message within 1 s"):
        mnoc(constant, time).exchange([REQUEST])
    assert time.slept == [0.001] * 1000
    assert constant.writes == [Write(TO_DEVICE, 0x0010_000C)]


def test_an_fsp_that_never_answers_is_given_up_after_five_seconds() -> None:
    constant = ConstantRegisters({TO_DEVICE: READY | CREDITS, FROM_DEVICE: NOTHING})
    time = FakeTime()
    with pytest.raises(FspFault, match=r"^the FSP did not answer within 5 s \(mailbox info 0x00000000\)$"):
        mnoc(constant, time).exchange([REQUEST])
    assert time.slept == [0.001] * 5000


def test_an_error_bit_that_was_there_before_keeps_anything_from_being_written() -> None:
    with (
        played([Read(TO_DEVICE, READY | TO_ERROR)]) as registers,
        pytest.raises(FspFault, match=r"the mailbox to the FSP reports an error \(info 0x03000000\)"),
    ):
        mnoc(registers).exchange([REQUEST])


def test_at_a_time_out_the_error_bit_speaks_first() -> None:
    failed = [Read(FROM_DEVICE, NOTHING), Read(FROM_DEVICE, FROM_ERROR)]
    with (
        played([*NOBODY_ASKED, *mailed(*REQUEST), *failed]) as registers,
        pytest.raises(FspFault, match=r"the mailbox from the FSP reports an error \(info 0x02000000\)"),
    ):
        mnoc(registers, FakeTime(lag_s=60)).exchange([REQUEST])


def test_an_error_bit_after_the_words_were_written_is_an_error() -> None:
    *written, _ = mailed(*REQUEST)
    with (
        played([*NOBODY_ASKED, *written, Read(TO_DEVICE, TO_ERROR)]) as registers,
        pytest.raises(FspFault, match="the mailbox to the FSP reports an error"),
    ):
        mnoc(registers).exchange([REQUEST])


def test_an_error_bit_after_the_answer_was_read_is_an_error() -> None:
    *read, _ = answered(*ANSWER)
    with (
        played([*NOBODY_ASKED, *mailed(*REQUEST), *read, Read(FROM_DEVICE, FROM_ERROR)]) as registers,
        pytest.raises(FspFault, match="the mailbox from the FSP reports an error"),
    ):
        mnoc(registers).exchange([REQUEST])


@pytest.mark.parametrize("size", [0, 2, 0x1044, 0xF_FFFC])
def test_a_size_that_makes_no_sense_is_not_read(size: int) -> None:
    with (
        played([*NOBODY_ASKED, *mailed(*REQUEST), Read(FROM_DEVICE, 0x0100_0000 + size)]) as registers,
        pytest.raises(FspFault, match=f"makes no sense: it announces {size} bytes"),
    ):
        mnoc(registers).exchange([REQUEST])


@pytest.mark.parametrize("at", [TO_DEVICE, FROM_DEVICE, READ_DATA])
def test_all_ones_is_a_device_that_is_gone_and_a_marker_is_no_data(at: int) -> None:
    there: dict[int, int] = {TO_DEVICE: READY | CREDITS, FROM_DEVICE: 0x0100_0018, READ_DATA: 0}
    with pytest.raises(DeviceGone):
        mnoc(ConstantRegisters({**there, at: 0xFFFF_FFFF})).exchange([REQUEST])
    with pytest.raises(BusError):
        mnoc(ConstantRegisters({**there, at: 0xBADF_5040})).exchange([REQUEST])
