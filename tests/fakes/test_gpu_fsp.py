"""The emulated firmware: packets, messages, and what it refuses of them.

Every literal is computed by hand from facts/fsp-and-cc-mode.md, sections 3 and 4.
"""

import pytest

from tests.fakes.gpu import Chip, EmulatedDevice, Faults, Words
from tests.fakes.gpu.fsp import Fsp
from tests.fakes.gpu.knobs import Knobs
from tests.fakes.gpu_script import (
    ANSWER,
    PRC,
    WHOLE,
    Clock,
    ask,
    complaint,
    has_command,
    has_message,
    open_channel,
    read_knob,
    receive,
    send,
)

READ_8 = (0xC0000000, 0x1310DE7E, 0x0008020C)
WRITE_8 = (0xC0000000, 0x1310DE7E, 0x0008020D, 0x00000001)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gpu(clock: Clock) -> EmulatedDevice:
    return EmulatedDevice(Chip.GH100, clock=clock, boot_time_s=3, take_time_s=0.25, answer_time_s=0.5)


@pytest.fixture
def words(gpu: EmulatedDevice) -> Words:
    """BAR0 with its channel open."""
    words = gpu.bar0()
    open_channel(words)
    return words


@pytest.mark.parametrize(
    "header",
    [
        0xC0000001,  # version 1
        0xC0000100,  # destination endpoint 1
        0xC0010000,  # source endpoint 1
        0xC1000000,  # tag 1
        0xC8000000,  # tag owner
        0xD0000000,  # sequence 1
        0x40000000,  # no start
    ],
)
def test_a_wrong_mctp_header_gets_no_answer(gpu: EmulatedDevice, words: Words, clock: Clock, header: int) -> None:
    send(words, header, *READ_8[1:])
    clock.now += 1
    assert not has_command(words)
    assert not has_message(words)
    assert f"MCTP header {header:#010x}" in complaint(gpu)
    assert gpu.requests == []


@pytest.mark.parametrize(
    "header",
    [
        0x1310DE7F,  # another message type
        0x1310DEFE,  # with an integrity check
        0x1310DF7E,  # another vendor
    ],
)
def test_a_wrong_message_header_gets_no_answer(gpu: EmulatedDevice, words: Words, clock: Clock, header: int) -> None:
    send(words, WHOLE, header, READ_8[2])
    clock.now += 1
    assert not has_message(words)
    assert f"message header {header:#010x}" in complaint(gpu)


@pytest.mark.parametrize(
    ("message", "request_type"),
    [
        ((0x1410DE7E, 0x0008020C), 0x14),  # not PRC
        ((PRC, 0x0008020E), 0x13),  # no such sub-command
        ((PRC, 0x0008010C), 0x13),  # not 0x2
        ((PRC, 0x0008020C, 0), 0x13),  # a read with a value
        ((PRC, 0x0008020D), 0x13),  # a write without one
        ((PRC, 0x0008020D, 1, 1), 0x13),  # a write with two
        ((PRC,), 0x13),  # no sub-command
    ],
)
def test_a_wrong_request_is_answered_with_an_error(
    gpu: EmulatedDevice,
    words: Words,
    clock: Clock,
    message: tuple[int, ...],
    request_type: int,
) -> None:
    answer = ask(words, clock, WHOLE, *message)
    assert answer[:2] == [WHOLE, ANSWER]
    assert answer[3] == request_type
    assert answer[4] not in {0, 0x1E3}
    assert len(answer) == 5
    assert complaint(gpu)
    assert gpu.knob_writes == []


def send_pieces(words: Words, clock: Clock, *packets: tuple[int, ...]) -> None:
    for packet in packets:
        assert not has_command(words)
        send(words, *packet)
        clock.now += 0.25


def test_a_message_in_several_packets_is_put_together(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    # Start with sequence 0, then 1, 2, 3, 0, and the end with 1.
    message = (PRC, 0x0008020C, *range(5 * 255 - 2), 7, 8)
    packets = [
        (header, *message[start : start + 255])
        for header, start in zip(
            (0x80000000, 0x10000000, 0x20000000, 0x30000000, 0x00000000, 0x50000000),
            range(0, len(message), 255),
            strict=True,
        )
    ]
    assert [len(packet) for packet in packets] == [256, 256, 256, 256, 256, 3]
    send_pieces(words, clock, *packets)
    assert not has_command(words)
    assert gpu.requests == [message]
    clock.now += 1
    assert receive(words)[4] not in {0, 0x1E3}
    assert "in a payload of 1276 words" in complaint(gpu)


def test_a_request_in_two_packets_is_carried_out(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send_pieces(words, clock, (0x80000000, PRC, 0x0008020D), (0x50000000, 1))
    clock.now += 1
    assert receive(words)[4] == 0
    assert gpu.knobs[8] == 1
    assert read_knob(words, clock, 8)[4] == 0
    assert gpu.complaints == []


def test_a_continuation_out_of_sequence_gets_no_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send_pieces(words, clock, (0x80000000, PRC, 0x0008020D), (0x60000000, 1))
    clock.now += 1
    assert not has_message(words)
    assert complaint(gpu) == "MCTP header 0x60000000: not sequence 1"
    send_pieces(words, clock, (0x50000000, 1))
    assert not has_command(words)
    assert gpu.complaints[1:] == ["MCTP header 0x50000000 continues no message"]
    assert read_knob(words, clock, 8)[5] & 0xFFFF == 0


def test_a_reset_ends_half_a_message(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send_pieces(words, clock, (0x80000000, PRC, 0x0008020D))
    assert not has_command(words)
    gpu.reset()
    clock.now += 3
    send_pieces(words, clock, (0x50000000, 1))
    assert not has_command(words)
    assert "MCTP header 0x50000000 continues no message" in gpu.complaints


def test_a_packet_without_content_is_complained_of() -> None:
    # The queues of EMEM cannot announce one; the size of another transport's packet can.
    complaints: list[str] = []
    fsp = Fsp(Knobs({}, has_ppcie=True), Faults(), complaints.append, 0)
    assert fsp.take([WHOLE]) is None
    assert complaints == ["MCTP header 0xc0000000: nothing follows it"]


def test_no_two_answers_have_the_same_task_id(words: Words, clock: Clock) -> None:
    assert len({read_knob(words, clock, 8)[2] for _ in range(3)}) == 3


def test_a_start_inside_a_message_begins_anew_and_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send_pieces(words, clock, (0x80000000, PRC, 0x0008020D))
    assert read_knob(words, clock, 8)[4] == 0
    assert complaint(gpu) == "MCTP header 0xc0000000 starts a message inside another"


def test_who_opens_the_channel_does_not_answer_for_half_a_message(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send_pieces(words, clock, (0x80000000, PRC, 0x0008020D))
    open_channel(words)
    assert read_knob(words, clock, 8)[4] == 0
    assert gpu.complaints == []
