"""The emulated firmware: packets, messages, knobs, and what it refuses of them.

Every literal is computed by hand from facts/fsp-and-cc-mode.md, sections 3 and 4.
"""

import pytest

from tests.fakes.gpu import Chip, EmulatedDevice, Words
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
    write_knob,
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
    assert gpu.complaints == []


def test_a_continuation_out_of_sequence_gets_no_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send_pieces(words, clock, (0x80000000, PRC, 0x0008020D), (0x60000000, 1))
    clock.now += 1
    assert not has_message(words)
    assert complaint(gpu) == "MCTP header 0x60000000: not sequence 1"
    assert read_knob(words, clock, 8)[5] & 0xFFFF == 0


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


# Knobs (section 4)


def test_firmware_without_ppcie_says_that_the_knob_does_not_exist(clock: Clock) -> None:
    gpu = EmulatedDevice(Chip.GH100, has_ppcie=False, clock=clock)
    words = gpu.bar0()
    open_channel(words)
    assert read_knob(words, clock, 45)[4:] == [0x1E3]
    assert gpu.complaints == []
    assert write_knob(words, clock, 45, 1) == 0x1E3
    assert complaint(gpu) == "knob 45 does not exist and is written"


@pytest.mark.parametrize(("permission", "knob"), [(1, 2), (3, 4), (33, 34), (5, 6), (7, 8), (9, 10), (44, 45)])
def test_a_knob_that_is_not_allowed_in_band_cannot_be_changed(clock: Clock, permission: int, knob: int) -> None:
    gpu = EmulatedDevice(Chip.GH100, knobs={permission: 0}, clock=clock)
    words = gpu.bar0()
    open_channel(words)
    assert read_knob(words, clock, permission)[5] & 0xFFFF == 0
    assert write_knob(words, clock, knob, 1) not in {0, 0x1E3}
    assert read_knob(words, clock, knob)[5] & 0xFFFF == 0
    assert gpu.knob_writes == []
    assert gpu.complaints == []


@pytest.mark.parametrize("knob", [7, 35])
def test_a_permission_or_an_unused_knob_is_not_for_the_host_to_write(
    gpu: EmulatedDevice, words: Words, clock: Clock, knob: int
) -> None:
    before = gpu.knobs[knob]
    assert write_knob(words, clock, knob, 2) not in {0, 0x1E3}
    assert gpu.knobs[knob] == before
    assert complaint(gpu) == f"knob {knob} is not for the host to write"


def test_a_value_of_more_than_16_bits_is_refused(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    assert write_knob(words, clock, 10, 0x10000) not in {0, 0x1E3}
    assert gpu.knobs[10] == 0
    assert "has more than 16 bits" in complaint(gpu)


@pytest.mark.parametrize("restriction", [2, 4, 34])
@pytest.mark.parametrize("knob", [6, 8, 45])
def test_a_protected_mode_is_refused_while_a_legacy_restriction_stands(
    clock: Clock, restriction: int, knob: int
) -> None:
    gpu = EmulatedDevice(Chip.GH100, knobs={restriction: 1}, clock=clock)
    words = gpu.bar0()
    open_channel(words)
    assert write_knob(words, clock, knob, 0) == 0
    assert write_knob(words, clock, knob, 1) not in {0, 0x1E3}
    assert gpu.knobs[knob] == 0
    assert complaint(gpu) == f"knob {knob} := 1 while [{restriction}] are not 0"


@pytest.mark.parametrize(
    ("knobs", "write"),
    [({}, (6, 1)), ({6: 1, 8: 1}, (8, 0))],
)
def test_devtools_staged_alone_is_carried_out_and_complained_of(
    clock: Clock, knobs: dict[int, int], write: tuple[int, int]
) -> None:
    gpu = EmulatedDevice(Chip.GH100, knobs=knobs, clock=clock)
    words = gpu.bar0()
    open_channel(words)
    assert write_knob(words, clock, *write) == 0
    assert "leaves devtools staged without CC" in complaint(gpu)
    gpu.reset()
    assert gpu.active.cc_bits == 0b10


@pytest.mark.parametrize(("there", "added"), [(45, 8), (8, 45)])
def test_ppcie_and_cc_staged_together_are_complained_of(clock: Clock, there: int, added: int) -> None:
    gpu = EmulatedDevice(Chip.GH100, knobs={there: 1}, clock=clock)
    words = gpu.bar0()
    open_channel(words)
    assert write_knob(words, clock, added, 1) == 0
    assert complaint(gpu) == f"knob {added} := 1 leaves PPCIE and CC staged together"


@pytest.mark.parametrize(
    "writes",
    [
        # Facts, section 4, the rows of the table from a state that makes the order matter.
        ((45, 0), (10, 0), (6, 0), (8, 0)),
        ((2, 0), (4, 0), (34, 0), (45, 0), (10, 2), (8, 1), (6, 0)),
        ((2, 0), (4, 0), (34, 0), (45, 0), (10, 0), (8, 1), (6, 1)),
        ((2, 0), (4, 0), (34, 0), (6, 0), (8, 0), (10, 2), (45, 1)),
    ],
)
@pytest.mark.parametrize("knobs", [{2: 1, 4: 1, 34: 1}, {8: 1}, {8: 1, 6: 1}, {45: 1, 10: 2}, {6: 1}])
def test_the_order_of_the_table_is_never_complained_of(
    clock: Clock, knobs: dict[int, int], writes: tuple[tuple[int, int], ...]
) -> None:
    gpu = EmulatedDevice(Chip.GH100, knobs=knobs, clock=clock)
    words = gpu.bar0()
    open_channel(words)
    for knob, value in writes:
        if read_knob(words, clock, knob)[5] & 0xFFFF != value:
            assert write_knob(words, clock, knob, value) == 0
    assert gpu.complaints == []
    assert {knob: gpu.knobs[knob] for knob, _ in writes} == dict(writes)
