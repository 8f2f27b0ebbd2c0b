"""The emulated transport: EMEM, its ports and windows, the queues, and what it refuses of them.

Facts, section 3a.
"""

import pytest

from tests.fakes.gpu import Chip, EmulatedDevice, Words
from tests.fakes.gpu_script import (
    ANSWER,
    BASE,
    COMMAND_HEAD,
    COMMAND_TAIL,
    CONTROL,
    EMEMC,
    EMEMD,
    MESSAGE_HEAD,
    MESSAGE_TAIL,
    WHOLE,
    Clock,
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


def test_the_queues_say_what_happens_and_when(words: Words, clock: Clock) -> None:
    send(words, *READ_8)
    assert has_command(words)
    clock.now += 0.25
    assert not has_command(words)
    assert not has_message(words)
    clock.now += 0.25
    assert has_message(words)
    assert words[MESSAGE_HEAD] == BASE
    assert words[MESSAGE_TAIL] == BASE + 5 * 4
    receive(words)
    assert not has_message(words)


def test_a_second_client_may_open_the_channel_again(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    read_knob(words, clock, 8)
    open_channel(words)
    read_knob(words, clock, 8)
    assert gpu.complaints == []


@pytest.mark.parametrize("port", range(8))
def test_every_port_moves_on_by_itself_in_its_own_window(gpu: EmulatedDevice, port: int) -> None:
    words = gpu.bar0()
    control, data = (0x8F2AC0 + 8 * port) // 4, (0x8F2AC4 + 8 * port) // 4
    words[control] = port * 1024 | 1 << 24 | 1 << 25
    for word in (11, 22, 33):
        words[data] = word
    assert words[control] == port * 1024 + 12 | 1 << 24 | 1 << 25
    words[control] = port * 1024 | 1 << 24 | 1 << 25
    assert [words[data] for _ in range(3)] == [11, 22, 33]
    assert gpu.complaints == []


def test_without_the_bits_a_port_does_not_move_on(gpu: EmulatedDevice) -> None:
    words = gpu.bar0()
    words[EMEMC] = BASE
    words[EMEMD] = 11
    words[EMEMD] = 22
    assert words[EMEMD] == 22
    assert words[EMEMD] == 22
    assert words[EMEMC] == BASE


def test_each_bit_moves_one_kind_of_access(gpu: EmulatedDevice) -> None:
    words = gpu.bar0()
    words[EMEMC] = BASE | 1 << 24
    words[EMEMD] = 11
    assert words[EMEMC] == BASE + 4 | 1 << 24
    assert words[EMEMD] == 0
    assert words[EMEMC] == BASE + 4 | 1 << 24
    words[EMEMC] = BASE | 1 << 25
    assert words[EMEMD] == 11
    assert words[EMEMC] == BASE + 4 | 1 << 25
    words[EMEMD] = 22
    assert words[EMEMC] == BASE + 4 | 1 << 25


# What it refuses


def test_emem_outside_the_channels_window_is_lost_and_complained_of(gpu: EmulatedDevice) -> None:
    words = gpu.bar0()
    words[EMEMC] = BASE + 1020 | 1 << 24
    words[EMEMD] = 11
    words[EMEMD] = 22
    assert complaint(gpu) == "EMEM offset 0xc00 is not in the window of channel 2"
    words[0x8F2AD8 // 4] = 3072
    assert words[0x8F2ADC // 4] == 0
    words[EMEMC] = 0
    assert words[EMEMD] >> 16 == 0xBADF


def test_bits_of_ememc_that_mean_nothing_are_complained_of(gpu: EmulatedDevice) -> None:
    gpu.bar0()[EMEMC] = CONTROL | 1 << 26
    assert "bits that mean nothing" in complaint(gpu)


def test_emem_before_ememc_was_written_since_the_reset_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    read_knob(words, clock, 8)
    gpu.reset()
    clock.now += 3
    words[EMEMD] = 1
    assert "EMEMD of port 2 used before EMEMC was written anew" in gpu.complaints


def test_an_answer_read_without_a_new_ememc_is_complained_of(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send(words, *READ_8)
    clock.now += 1
    assert words[EMEMD] != WHOLE
    assert words[EMEMD] != ANSWER
    assert complaint(gpu) == "EMEMD of port 2 used before EMEMC was written anew"


def test_a_packet_without_a_new_ememc_is_complained_of(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    read_knob(words, clock, 8)
    words[COMMAND_TAIL] = BASE + 8
    words[COMMAND_HEAD] = BASE
    assert complaint(gpu) == "a packet before EMEMC was written anew"


def test_a_packet_on_a_channel_that_is_not_open_is_complained_of(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    send(words, *READ_8)
    clock.now += 1
    assert words[MESSAGE_HEAD] == BASE
    assert complaint(gpu) == "a packet on a channel that was not opened since the reset"


def test_a_reset_closes_the_channel(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.reset()
    clock.now += 3
    send(words, *READ_8)
    assert complaint(gpu) == "a packet on a channel that was not opened since the reset"


@pytest.mark.parametrize(
    "order",
    [
        (COMMAND_HEAD, COMMAND_TAIL, MESSAGE_TAIL, MESSAGE_HEAD),
        (COMMAND_TAIL, COMMAND_HEAD, MESSAGE_HEAD, MESSAGE_TAIL),
        (MESSAGE_TAIL, MESSAGE_HEAD, COMMAND_TAIL, COMMAND_HEAD),
    ],
)
def test_a_channel_opened_in_another_order_is_complained_of(gpu: EmulatedDevice, order: tuple[int, ...]) -> None:
    for register in order:
        gpu.bar0()[register] = BASE
    assert gpu.complaints != []


def test_a_packet_on_another_channel_is_not_taken(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    words[0x8F2C0C // 4] = 1024 + 8
    words[0x8F2C08 // 4] = 1024
    clock.now += 1
    assert words[0x8F2C0C // 4] == 1024 + 8
    assert complaint(gpu) == "a packet on channel 1, which is not the FSP's"


def test_a_command_tail_while_the_queue_is_not_empty_is_complained_of(gpu: EmulatedDevice, words: Words) -> None:
    send(words, *READ_8)
    send(words, *READ_8)
    assert "command_tail := 0x808 while the command queue is not empty" in gpu.complaints


def test_a_packet_before_the_last_one_is_answered_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, *READ_8)
    clock.now += 0.25
    assert not has_command(words)
    send(words, *READ_8)
    assert complaint(gpu) == "a packet while the previous request is not answered"


def test_a_packet_is_forgotten_when_the_channel_is_opened_before_it_was_taken(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, *WRITE_8)
    open_channel(words)
    clock.now += 1
    assert not has_message(words)
    assert gpu.knobs[8] == 0
    assert gpu.complaints == []


def test_who_opens_the_channel_does_not_wait_for_the_answer_to_another(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, *READ_8)
    clock.now += 0.25
    assert not has_command(words)
    open_channel(words)
    send(words, *READ_8)
    assert gpu.complaints == []


def test_a_packet_before_the_last_answer_is_acknowledged_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, *READ_8)
    clock.now += 1
    assert has_message(words)
    send(words, *READ_8)
    assert complaint(gpu) == "a packet while a message is not acknowledged"


def test_the_next_answer_waits_until_the_last_one_is_acknowledged(words: Words, clock: Clock) -> None:
    send(words, *READ_8)
    clock.now += 1
    assert has_message(words)
    send(words, *WRITE_8)
    clock.now += 1
    assert words[MESSAGE_TAIL] - words[MESSAGE_HEAD] == 5 * 4
    words[MESSAGE_TAIL] = BASE
    assert words[MESSAGE_TAIL] - words[MESSAGE_HEAD] == 4 * 4


def test_an_acknowledgement_that_is_not_the_head_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, *READ_8)
    clock.now += 1
    words[MESSAGE_TAIL] = BASE + 4
    assert complaint(gpu) == "message_tail := 0x804 is not the message head and opens no channel"


def test_a_message_head_outside_an_opening_is_complained_of(gpu: EmulatedDevice, words: Words) -> None:
    words[MESSAGE_HEAD] = BASE
    words[MESSAGE_HEAD] = BASE
    assert "message_head := 0x800 opens no channel: the writes before it are others" in (gpu.complaints)


def test_a_packet_that_does_not_begin_at_the_window_gets_no_answer(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    words[EMEMC] = CONTROL
    words[COMMAND_TAIL] = BASE + 12
    words[COMMAND_HEAD] = BASE + 4
    clock.now += 1
    assert not has_message(words)
    assert gpu.complaints == [
        "command_head := 0x804: packets begin at 0x800",
        "a packet of 12 bytes at 0x804 is not one in the window",
    ]


@pytest.mark.parametrize(("tail", "size"), [(1024, 1028), (6, 10), (-4, 0)])
def test_a_packet_of_an_impossible_size_gets_no_answer(
    gpu: EmulatedDevice, words: Words, clock: Clock, tail: int, size: int
) -> None:
    words[EMEMC] = CONTROL
    words[COMMAND_TAIL] = BASE + tail
    words[COMMAND_HEAD] = BASE
    clock.now += 1
    assert not has_command(words)
    assert not has_message(words)
    assert complaint(gpu) == f"a packet of {size} bytes at 0x800 is not one in the window"
