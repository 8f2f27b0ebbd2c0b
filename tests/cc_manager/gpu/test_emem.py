"""Packets through EMEM and the queues of channel 2: every access, in its order."""

import pytest

from cc_manager.errors import BusError, FspFault
from cc_manager.gpu.emem import Emem
from cc_manager.gpu.mctp import NVDM_PRC, request_packets
from cc_manager.gpu.registers import CheckedRegisters, Registers
from nodelib.errors import DeviceGone
from tests.cc_manager.scripted import (
    ADDRESS,
    COMMAND_HEAD,
    COMMAND_TAIL,
    EMEM_CONTROL,
    EMEM_DATA,
    EMPTY,
    MESSAGE_HEAD,
    MESSAGE_TAIL,
    OPENING,
    ConstantRegisters,
    FakeTime,
    Read,
    Script,
    Write,
    played,
    queue,
    receiving,
    sending,
)

REQUEST = (0xC000_0000, 0x1310_DE7E, 0x0008_020C)
ANSWER = (0xC000_0000, 0x1510_DE7E, 0x0, 0x13, 0x0, 0x1)
POINTERS = [
    Write(COMMAND_TAIL, 0x800),
    Write(COMMAND_HEAD, 0x800),
    Write(MESSAGE_TAIL, 0x800),
    Write(MESSAGE_HEAD, 0x800),
]


def emem(registers: Registers, time: FakeTime | None = None) -> Emem:
    return Emem(CheckedRegisters(ADDRESS, registers), (time or FakeTime()).clock)


def test_the_first_exchange_word_by_word() -> None:
    script: Script = [
        # opening: both queues are looked at, then their pointers set, and nothing of EMEM is read
        Read(0x8F2C10, 0x0), Read(0x8F2C14, 0x0), Read(0x8F2C90, 0x0), Read(0x8F2C94, 0x0),
        Write(0x8F2C14, 0x800), Write(0x8F2C10, 0x800), Write(0x8F2C94, 0x800), Write(0x8F2C90, 0x800),
        # sending: no stale answer, command queue empty, the packet, then tail before head
        Read(0x8F2C90, 0x800), Read(0x8F2C94, 0x800), Read(0x8F2C10, 0x800), Read(0x8F2C14, 0x800),
        Write(0x8F2AD0, 0x0300_0800),
        Write(0x8F2AD4, 0xC000_0000), Write(0x8F2AD4, 0x1310_DE7E), Write(0x8F2AD4, 0x0008_020C),
        Write(0x8F2C14, 0x808), Write(0x8F2C10, 0x800),
        # receiving: six words, acknowledged
        Read(0x8F2C90, 0x800), Read(0x8F2C94, 0x814), Read(0x8F2C90, 0x800), Read(0x8F2C94, 0x814),
        Write(0x8F2AD0, 0x0300_0800),
        Read(0x8F2AD4, 0xC000_0000), Read(0x8F2AD4, 0x1510_DE7E), Read(0x8F2AD4, 0x0),
        Read(0x8F2AD4, 0x13), Read(0x8F2AD4, 0x0), Read(0x8F2AD4, 0x1),
        Write(0x8F2C94, 0x800),
    ]  # fmt: skip
    with played(script) as registers:
        assert emem(registers).exchange([REQUEST]) == ANSWER


def test_the_channel_is_opened_only_once() -> None:
    script = [*OPENING, *sending(*REQUEST), *receiving(*ANSWER), *sending(*REQUEST), *receiving(*ANSWER)]
    with played(script) as registers:
        transport = emem(registers)
        assert transport.exchange([REQUEST]) == ANSWER
        assert transport.exchange([REQUEST]) == ANSWER


def test_after_close_as_after_a_reset_the_channel_is_opened_again() -> None:
    script = [*OPENING, *sending(*REQUEST), *receiving(*ANSWER), *OPENING, *sending(*REQUEST), *receiving(*ANSWER)]
    with played(script) as registers:
        transport = emem(registers)
        transport.exchange([REQUEST])
        transport.close()
        assert transport.exchange([REQUEST]) == ANSWER


def test_each_packet_of_a_long_message_waits_for_the_one_before_to_be_taken() -> None:
    first, second = (0x8000_0000, 0x1310_DE7E, 7), (0x5000_0000, 8)
    taken = queue(COMMAND_HEAD, EMPTY)
    not_taken = queue(COMMAND_HEAD, (0x800, 0x808))
    script = [
        *OPENING,
        *sending(*first),
        *queue(MESSAGE_HEAD, EMPTY), *not_taken,
        *queue(MESSAGE_HEAD, EMPTY), *not_taken,
        *queue(MESSAGE_HEAD, EMPTY), *taken,
        Write(EMEM_CONTROL, 0x0300_0800), Write(EMEM_DATA, 0x5000_0000), Write(EMEM_DATA, 8),
        Write(COMMAND_TAIL, 0x804), Write(COMMAND_HEAD, 0x800),
        *receiving(*ANSWER),
    ]  # fmt: skip
    time = FakeTime()
    with played(script) as registers:
        assert emem(registers, time).exchange([first, second]) == ANSWER
    assert time.slept == [0.001, 0.001]


def test_an_answer_is_waited_for() -> None:
    script = [*OPENING, *sending(*REQUEST), *queue(MESSAGE_HEAD, EMPTY) * 3, *receiving(*ANSWER)]
    time = FakeTime()
    with played(script) as registers:
        assert emem(registers, time).exchange([REQUEST]) == ANSWER
    assert time.slept == [0.01, 0.01, 0.01]


def test_an_answer_as_long_as_the_channel_is_read_whole() -> None:
    words = tuple(range(1, 257))
    with played([*OPENING, *sending(*REQUEST), *receiving(*words)]) as registers:
        assert emem(registers).exchange([REQUEST]) == words


def test_a_stale_answer_that_arrives_while_sending_is_acknowledged_unread() -> None:
    stale = queue(MESSAGE_HEAD, (0x800, 0x814))
    script = [
        *OPENING,
        *stale, Write(MESSAGE_TAIL, 0x800), *queue(COMMAND_HEAD, (0x800, 0x808)),
        *sending(*REQUEST),
        *receiving(*ANSWER),
    ]  # fmt: skip
    with played(script) as registers:
        assert emem(registers).exchange([REQUEST]) == ANSWER


def test_the_late_answer_of_a_killed_tool_is_waited_for_and_thrown_away() -> None:
    script = [
        *queue(COMMAND_HEAD, (0x800, 0x808)),
        *queue(MESSAGE_HEAD, EMPTY),
        *queue(MESSAGE_HEAD, (0x800, 0x814)),
        *POINTERS,
        *sending(*REQUEST),
        *receiving(*ANSWER),
    ]
    time = FakeTime()
    with played(script) as registers:
        assert emem(registers, time).exchange([REQUEST]) == ANSWER
    assert time.slept == [0.01]


def test_an_answer_that_lies_there_already_is_thrown_away_at_once() -> None:
    lying = (0x800, 0x814)
    script = [
        *queue(COMMAND_HEAD, EMPTY), *queue(MESSAGE_HEAD, lying), *queue(MESSAGE_HEAD, lying), *POINTERS,
        *sending(*REQUEST), *receiving(*ANSWER),
    ]  # fmt: skip
    time = FakeTime()
    with played(script) as registers:
        emem(registers, time).exchange([REQUEST])
    assert time.slept == []


def test_a_dirty_command_queue_without_a_late_answer_is_cleared_after_the_limit_and_is_no_error() -> None:
    script = [
        *queue(COMMAND_HEAD, (0x800, 0x808)),  # not empty: the other queue need not be looked at
        *queue(MESSAGE_HEAD, EMPTY), *queue(MESSAGE_HEAD, EMPTY),  # before and after a sleep beyond the limit
        *POINTERS,
        *sending(*REQUEST), *receiving(*ANSWER),
    ]  # fmt: skip
    with played(script) as registers:
        assert emem(registers, FakeTime(lag_s=60)).exchange([REQUEST]) == ANSWER


def test_an_fsp_that_never_takes_a_command_is_given_up_after_a_second() -> None:
    constant = ConstantRegisters({COMMAND_HEAD: 0x800, COMMAND_TAIL: 0x808, MESSAGE_HEAD: 0x800, MESSAGE_TAIL: 0x800})
    time = FakeTime()
    with pytest.raises(FspFault, match="did not take an earlier command from its queue within 1 s"):
        emem(constant, time).exchange([REQUEST])
    assert time.slept == [0.01] * 500 + [0.001] * 1000  # opening waits for a late answer first
    assert constant.writes == POINTERS  # and nothing was sent


def test_an_fsp_that_never_answers_is_given_up_after_five_seconds() -> None:
    constant = ConstantRegisters({COMMAND_HEAD: 0x800, COMMAND_TAIL: 0x800, MESSAGE_HEAD: 0x800, MESSAGE_TAIL: 0x800})
    time = FakeTime()
    with pytest.raises(FspFault, match=r"^the FSP did not answer within 5 s$"):
        emem(constant, time).exchange([REQUEST])
    assert time.slept == [0.01] * 500


def test_a_late_answer_is_not_taken_for_the_answer_to_the_next_request() -> None:
    silent = queue(MESSAGE_HEAD, EMPTY)
    late = (0x800, 0x814)
    script = [
        *OPENING, *sending(*REQUEST), *receiving(*ANSWER),
        *sending(*REQUEST), *silent, *silent,
        # the next exchange opens the channel again, and finds the late answer
        *queue(COMMAND_HEAD, EMPTY), *queue(MESSAGE_HEAD, late), *queue(MESSAGE_HEAD, late), *POINTERS,
        *sending(*REQUEST), *receiving(*ANSWER),
    ]  # fmt: skip
    with played(script) as registers:
        transport = emem(registers, FakeTime(lag_s=60))
        assert transport.exchange([REQUEST]) == ANSWER
        with pytest.raises(FspFault, match="did not answer"):
            transport.exchange([REQUEST])
        assert transport.exchange([REQUEST]) == ANSWER


@pytest.mark.parametrize("tail", [0x7FC, 0x700, 0x0, 0x802, 0xC00, 0xFFFF_0000])
def test_a_message_queue_that_makes_no_sense_is_acknowledged_and_reported(tail: int) -> None:
    nonsense = queue(MESSAGE_HEAD, (0x800, tail))
    script = [*OPENING, *sending(*REQUEST), *nonsense, *nonsense, Write(MESSAGE_TAIL, 0x800)]
    with (
        played(script) as registers,
        pytest.raises(FspFault, match=rf"makes no sense \(head 0x800, tail {tail:#x}\)"),
    ):
        emem(registers).exchange([REQUEST])


def test_a_message_of_two_packets_waits_for_each_to_be_taken() -> None:
    """255 payload words: 254 and the two headers fill 1,024 bytes, the last one follows under a header."""
    packets = request_packets(NVDM_PRC, range(1, 256), Emem.packet_bytes)
    first = (0x8000_0000, 0x1310_DE7E, *range(1, 255))
    assert packets == (first, (0x5000_0000, 255))
    script = [
        *OPENING,
        *sending(*first),
        *queue(MESSAGE_HEAD, EMPTY), *queue(COMMAND_HEAD, (0x800, 0xBFC)),  # the first is not taken yet
        *sending(0x5000_0000, 255),
        *receiving(*ANSWER),
    ]  # fmt: skip
    time = FakeTime()
    with played(script) as registers:
        assert emem(registers, time).exchange(packets) == ANSWER
    assert time.slept == [0.001]


def test_data_that_looks_like_an_error_marker_is_data() -> None:
    words = (0xC000_0000, 0x1510_DE7E, 0x0, 0x13, 0x0, 0xBADF_0001)
    with played([*OPENING, *sending(*REQUEST), *receiving(*words)]) as registers:
        assert emem(registers).exchange([REQUEST]) == words


def answered_in_all_ones(next_pointer: int) -> Script:
    """An answer whose last word is 0xffffffff, and what the message head then reads."""
    words = (0xC000_0000, 0x1510_DE7E, 0x0, 0x13, 0x0, 0xFFFF_FFFF)
    *reading, acknowledgement = receiving(*words)
    tail = [acknowledgement] if next_pointer != 0xFFFF_FFFF else []
    return [*OPENING, *sending(*REQUEST), *reading, Read(MESSAGE_HEAD, next_pointer), *tail]


def test_data_of_all_ones_is_data_while_the_device_is_there() -> None:
    with played(answered_in_all_ones(0x800)) as registers:
        assert emem(registers).exchange([REQUEST])[-1] == 0xFFFF_FFFF


def test_a_device_that_leaves_the_bus_in_the_middle_of_an_answer_is_gone() -> None:
    with played(answered_in_all_ones(0xFFFF_FFFF)) as registers, pytest.raises(DeviceGone):
        emem(registers).exchange([REQUEST])


@pytest.mark.parametrize("at", [COMMAND_HEAD, COMMAND_TAIL, MESSAGE_HEAD, MESSAGE_TAIL])
def test_a_queue_pointer_that_reads_all_ones_or_a_marker_is_no_pointer(at: int) -> None:
    pointers = dict.fromkeys((COMMAND_HEAD, COMMAND_TAIL, MESSAGE_HEAD, MESSAGE_TAIL), 0x800)
    with pytest.raises(DeviceGone):
        emem(ConstantRegisters({**pointers, at: 0xFFFF_FFFF})).exchange([REQUEST])
    with pytest.raises(BusError):
        emem(ConstantRegisters({**pointers, at: 0xBADF_5040})).exchange([REQUEST])
