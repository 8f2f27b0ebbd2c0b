"""The emulated transport of Blackwell: the mailbox, its announcements and credits, and what it refuses.

Facts, section 3b; every literal is computed by hand from there.
"""

from collections.abc import Callable

import pytest

from tests.fakes.gpu import Chip, EmulatedDevice, MailboxMoment, Words
from tests.fakes.gpu_script import Clock, complaint
from tests.fakes.mailbox_script import (
    CREDITS,
    ERROR,
    FROM_DATA,
    FROM_INFO,
    READY,
    TO_DATA,
    TO_INFO,
    announce,
    ask,
    put,
    read_knob,
    receive,
    send,
    write_knob,
)

READ_8 = (0xC0000000, 0x1310DE7E, 0x0008020C)
WRITE_8 = (0xC0000000, 0x1310DE7E, 0x0008020D, 0x00000001)
# 3 words and 4 words; answers of 6 words and 5 words.
READ, WRITE, VALUE, DONE = 0x0010000C, 0x00100010, 0x01000018, 0x01000014
BLACKWELL = [chip for chip in Chip if chip.name.startswith("GB")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gpu(clock: Clock) -> EmulatedDevice:
    return EmulatedDevice(
        Chip.GB100, clock=clock, boot_time_s=3, take_time_s=0.25, answer_time_s=0.5, credit_time_s=0.125
    )


@pytest.fixture
def words(gpu: EmulatedDevice) -> Words:
    return gpu.bar0()


@pytest.mark.parametrize("chip", BLACKWELL)
def test_a_knob_is_read(chip: Chip, clock: Clock) -> None:
    gpu = EmulatedDevice(chip, knobs={8: 1}, clock=clock)
    words = gpu.bar0()
    assert words[0x8F1F84 // 4] == 0x01000000
    words[0x8F1F84 // 4] = 0x0010000C
    clock.now += 1
    assert words[0x8F1F84 // 4] == 0x04000000
    for word in (0xC0000000, 0x1310DE7E, 0x0008020C):
        words[0x8F1F88 // 4] = word
    assert words[0x8F1F84 // 4] == 0
    assert words[0x8F1F04 // 4] == 0
    clock.now += 1
    assert words[0x8F1F04 // 4] == 0x01000018
    answer = [words[0x8F1F08 // 4] for _ in range(6)]
    assert words[0x8F1F04 // 4] == 0
    assert answer == [0xC0000000, 0x1510DE7E, 1, 0x13, 0, 0xFADE0001]
    assert gpu.requests == [(0x1310DE7E, 0x0008020C)]
    assert gpu.complaints == []


def test_a_knob_is_written_and_acts_at_the_next_reset(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    assert ask(words, clock, WRITE, *WRITE_8, info=DONE)[3:] == [0x13, 0]
    assert gpu.knob_writes == [(8, 1)]
    assert gpu.active.cc_bits == 0
    gpu.reset()
    clock.now += 3
    assert words[0x590 // 4] & 0b11 == 0b01
    assert read_knob(words, clock, 8) == 1
    assert gpu.complaints == []


@pytest.mark.parametrize("knob", [44, 45])
def test_blackwell_has_no_ppcie_knobs(gpu: EmulatedDevice, words: Words, clock: Clock, knob: int) -> None:
    send(words, clock, READ, 0xC0000000, 0x1310DE7E, 0x20C | knob << 16)
    clock.now += 1
    assert receive(words, DONE)[4:] == [0x1E3]
    assert gpu.complaints == []


def test_the_mailboxes_say_what_happens_and_when(words: Words, clock: Clock) -> None:
    announce(words, READ)
    assert words[TO_INFO] == 0
    clock.now += 0.125
    assert words[TO_INFO] == CREDITS
    for word in READ_8:
        words[TO_DATA] = word
    assert words[TO_INFO] == 0
    clock.now += 0.25
    assert words[TO_INFO] == READY
    assert words[FROM_INFO] == 0
    clock.now += 0.25
    assert words[FROM_INFO] == VALUE


def test_credits_are_given_for_64_bytes_at_a_time(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    announce(words, 0x00100000 | 36 * 4)
    put(words, clock, *READ_8, *range(13))
    assert words[TO_INFO] == 0
    clock.now += 0.125
    assert words[TO_INFO] == CREDITS
    words[TO_DATA] = 13
    assert words[TO_INFO] == CREDITS
    for word in range(14, 29):
        words[TO_DATA] = word
    assert words[TO_INFO] == 0
    put(words, clock, *range(29, 33))
    assert words[TO_INFO] == 0
    clock.now += 0.25
    assert words[TO_INFO] == READY
    assert gpu.requests == [(*READ_8[1:], *range(33))]


def test_a_message_in_several_packets_is_put_together(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    # 1040 words are 4160 bytes, 0x1040; sequence 0, 1, and the end with 2.
    message = (0x1310DE7E, 0x0008020C, *range(2 * 1039 - 2), 7, 8)
    for header, start, announcement in (
        (0x80000000, 0, 0x00101040),
        (0x10000000, 1039, 0x00101040),
        (0x60000000, 2078, 0x0010000C),
    ):
        send(words, clock, announcement, header, *message[start : start + 1039])
        assert words[FROM_INFO] == 0
        clock.now += 0.25
    assert words[TO_INFO] == READY
    assert gpu.requests == [message]
    clock.now += 1
    assert receive(words, DONE)[4] not in {0, 0x1E3}
    assert "in a payload of 2079 words" in complaint(gpu)


def test_a_continuation_out_of_sequence_gets_no_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send(words, clock, READ, 0x80000000, *WRITE_8[1:3])
    clock.now += 0.25
    send(words, clock, 0x00100008, 0x60000000, 1)
    clock.now += 1
    assert words[FROM_INFO] == 0
    assert complaint(gpu) == "MCTP header 0x60000000: not sequence 1"


def test_the_next_answer_waits_until_the_last_one_is_read(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send(words, clock, READ, *READ_8)
    clock.now += 1
    send(words, clock, WRITE, *WRITE_8)
    clock.now += 1
    assert complaint(gpu) == "0x00100010 announced while a message is not read"
    receive_first = [words[FROM_DATA] for _ in range(6) if words[FROM_INFO]]
    assert receive_first[3:5] == [0x13, 0]
    assert words[FROM_INFO] == DONE


def test_an_interrupt_status_may_be_cleared(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    words[TO_INFO] = 1 << 31
    words[FROM_INFO] = 1 << 31
    assert read_knob(words, clock, 8) == 0
    assert gpu.complaints == []


# What it refuses


@pytest.mark.parametrize(
    ("announcement", "why"),
    [
        (0x0000000C, "not the size with bit 20 alone"),
        (0x4010000C, "not the size with bit 20 alone"),  # interrupt enable
        (0x0110000C, "not the size with bit 20 alone"),
        (0x00100000, "no packet has 0 bytes"),
        (0x0010000B, "no packet has 11 bytes"),
        (0x00101044, "no packet has 4164 bytes"),
    ],
)
def test_a_wrong_announcement_sets_the_error_bit(
    gpu: EmulatedDevice, words: Words, announcement: int, why: str
) -> None:
    announce(words, announcement)
    assert words[TO_INFO] == ERROR
    assert complaint(gpu) == f"{announcement:#010x} announced: {why}"


def test_an_announcement_without_a_look_at_the_mailbox_is_complained_of(gpu: EmulatedDevice, words: Words) -> None:
    words[TO_INFO] = READ
    assert complaint(gpu) == "0x0010000c announced without a look at whether the mailbox is ready"


def test_an_announcement_to_a_mailbox_that_is_not_ready_sets_the_error_bit(gpu: EmulatedDevice, words: Words) -> None:
    announce(words, READ)
    words[TO_INFO] = READ
    assert words[TO_INFO] == ERROR
    assert complaint(gpu) == "0x0010000c announced to a mailbox that is not ready"


def test_a_word_without_an_announcement_sets_the_error_bit(gpu: EmulatedDevice, words: Words) -> None:
    words[TO_DATA] = 0xC0000000
    assert words[TO_INFO] == ERROR
    assert complaint(gpu) == "0xc0000000 written, which no announcement has room for"


def test_a_word_more_than_announced_sets_the_error_bit(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send(words, clock, READ, *READ_8)
    words[TO_DATA] = 1
    assert words[TO_INFO] == ERROR
    assert complaint(gpu) == "0x00000001 written, which no announcement has room for"


@pytest.mark.parametrize("before", [0, 16, 32])
def test_a_word_without_credits_sets_the_error_bit(
    gpu: EmulatedDevice, words: Words, clock: Clock, before: int
) -> None:
    announce(words, 0x00100000 | 40 * 4)
    put(words, clock, *range(before))
    words[TO_DATA] = 1
    assert words[TO_INFO] == ERROR
    assert complaint(gpu) == f"word {before} written without credits"


@pytest.mark.parametrize("before", [0, 16])
def test_a_word_without_a_look_at_the_credits_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock, before: int
) -> None:
    announce(words, 0x00100000 | 40 * 4)
    put(words, clock, *range(before))
    clock.now += 1
    words[TO_DATA] = 1
    assert complaint(gpu) == f"word {before} written without a look at the credits"


def test_a_request_before_the_last_one_is_answered_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, clock, READ, *READ_8)
    clock.now += 0.25
    announce(words, READ)
    assert complaint(gpu) == "0x0010000c announced while the previous request is not answered"


def test_the_error_bit_must_be_looked_at_after_the_last_word(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    announce(words, READ)
    put(words, clock, *READ_8)
    clock.now += 1
    assert words[FROM_INFO] == VALUE
    assert complaint(gpu) == "an answer looked for before the error bit of the mailbox to the device was looked at"


def test_the_error_bit_must_be_looked_at_after_an_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send(words, clock, READ, *READ_8)
    clock.now += 1
    assert words[FROM_INFO] == VALUE
    for _ in range(6):
        words[FROM_DATA]
    announce(words, READ)
    assert "announced before the error bit of the mailbox from the device was looked at" in complaint(gpu)


def test_a_word_from_an_empty_mailbox_is_a_bus_error_and_complained_of(gpu: EmulatedDevice, words: Words) -> None:
    assert words[FROM_DATA] >> 16 == 0xBADF
    assert complaint(gpu) == "a word read from an empty mailbox"


def test_a_word_read_before_the_message_was_seen_is_complained_of(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, clock, READ, *READ_8)
    clock.now += 1
    assert words[FROM_DATA] == 0xC0000000
    assert complaint(gpu) == "a word read without a look at whether a message is ready"


@pytest.mark.parametrize(
    "access",
    [
        lambda words: words[TO_DATA],
        lambda words: words.__setitem__(FROM_DATA, 0),
        lambda words: words.__setitem__(FROM_INFO, 0x100004),
    ],
)
def test_a_mailbox_used_the_wrong_way_round_is_complained_of(
    gpu: EmulatedDevice, words: Words, access: Callable[[Words], object]
) -> None:
    access(words)
    assert complaint(gpu)


def test_another_port_is_no_register(gpu: EmulatedDevice, words: Words) -> None:
    assert words[(0x8F1F84 + 12) // 4] >> 16 == 0xBADF
    assert complaint(gpu) == "read of 0x8f1f90, which is no register"


@pytest.mark.parametrize(("chip", "register"), [(Chip.GH100, TO_INFO), (Chip.GB100, 0x8F2AD0 // 4)])
def test_a_chip_has_one_transport(chip: Chip, register: int) -> None:
    gpu = EmulatedDevice(chip)
    gpu.bar0()[register] = 0
    assert "is no register to write" in complaint(gpu)


# What can be made to go wrong


def test_who_maps_bar0_anew_does_not_answer_for_a_killed_tool(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    announce(words, READ)
    put(words, clock, *READ_8)
    words = gpu.bar0()
    clock.now += 0.25
    assert words[TO_INFO] == READY
    # What the tool has begun goes on all the same: its answer is the first that comes.
    send(words, clock, WRITE, *WRITE_8)
    assert receive(words, 0) == []
    clock.now += 1
    assert receive(words, VALUE)[5] & 0xFFFF == 0
    assert receive(words, DONE)[4] == 0
    assert gpu.complaints == []


def test_a_device_that_sleeps_in_the_middle_of_a_message_forgets_it(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    announce(words, READ)
    gpu.power_state = "D3hot"
    assert words[TO_INFO] == 0xFFFFFFFF
    gpu.power_state = "D0"
    assert read_knob(words, clock, 8) == 0
    assert gpu.complaints == []


def test_a_message_of_which_a_killed_tool_read_a_part_ends_early(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    send(words, clock, READ, *READ_8)
    clock.now += 1
    assert words[FROM_INFO] == VALUE
    assert [words[FROM_DATA] for _ in range(4)][3] == 0x13
    words = gpu.bar0()
    assert words[FROM_INFO] == VALUE
    assert [words[FROM_DATA] >> 16 for _ in range(6)] == [0, 0xFADE, *[0xBADF] * 4]
    assert words[FROM_INFO] == 0
    assert read_knob(words, clock, 8) == 0
    assert gpu.complaints == []


def test_a_packet_that_a_killed_tool_left_unfinished_blocks_the_mailbox_until_a_reset(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    gpu.faults.left_in_queue = READ_8[:2]
    clock.now += 1000
    assert not words[TO_INFO] & (READY | ERROR)
    gpu.reset()
    clock.now += 3
    assert read_knob(words, clock, 8) == 0
    assert gpu.complaints == []


def test_a_stale_answer_waits_in_the_mailbox(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    stale = [0xC0000000, 0x1510DE7E, 9, 0x13, 0, 1]
    gpu.faults.stale_answer = tuple(stale)
    assert receive(words, VALUE) == stale
    gpu.faults.stale_answer = tuple(stale)
    gpu.faults.stale_after_s = 0.5
    assert words[FROM_INFO] == 0
    clock.now += 0.5
    assert receive(words, VALUE) == stale
    assert read_knob(words, clock, 8) == 0
    assert gpu.complaints == []


def test_credits_that_end_early(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.credits_end_after = 1
    assert write_knob(words, clock, 8, 1) == 0
    announce(words, 0x00100000 | 20 * 4)
    put(words, clock, *range(16))
    clock.now += 1000
    assert words[TO_INFO] == 0
    gpu.faults.credits_end_after = 0
    gpu.reset()
    clock.now += 3
    announce(words, READ)
    clock.now += 1000
    assert words[TO_INFO] == 0
    assert gpu.complaints == []


def test_a_silent_fsp_takes_packets_and_never_answers(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.fsp_is_silent = True
    send(words, clock, WRITE, *WRITE_8)
    clock.now += 1000
    assert words[FROM_INFO] == 0
    assert gpu.knobs[8] == 1
    gpu.faults.fsp_is_silent = False
    assert read_knob(words, clock, 8) == 1
    assert gpu.complaints == []


def test_the_mailbox_of_a_hung_fsp_is_never_ready(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.fsp_is_hung = True
    clock.now += 1000
    assert words[TO_INFO] == 0


def test_an_error_bit_before_anything_was_sent(gpu: EmulatedDevice, words: Words) -> None:
    gpu.faults.mailbox_error = MailboxMoment.IDLE
    assert words[TO_INFO] == ERROR
    words[TO_INFO] = READ
    assert complaint(gpu) == "0x0010000c announced to a mailbox with its error bit set"


def test_an_error_bit_in_place_of_credits(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.mailbox_error = MailboxMoment.ANNOUNCED
    announce(words, READ)
    clock.now += 1000
    assert words[TO_INFO] == ERROR
    assert gpu.complaints == []
    words[TO_DATA] = 1
    assert complaint(gpu) == "0x00000001 written to a mailbox with its error bit set"


def test_an_error_bit_after_the_last_word_means_that_the_packet_is_lost(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    gpu.faults.mailbox_error = MailboxMoment.SENT
    announce(words, WRITE)
    put(words, clock, *WRITE_8)
    assert words[TO_INFO] == ERROR
    clock.now += 1000
    assert gpu.requests == []
    gpu.faults.mailbox_error = None
    assert words[TO_INFO] == ERROR
    gpu.reset()
    clock.now += 3
    assert words[TO_INFO] == READY
    assert gpu.complaints == []


def test_an_error_bit_in_place_of_an_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.mailbox_error = MailboxMoment.WAITING
    send(words, clock, WRITE, *WRITE_8)
    assert words[FROM_INFO] == 0
    clock.now += 1
    assert words[FROM_INFO] == ERROR
    assert gpu.knobs[8] == 1
    assert gpu.complaints == []


def test_an_error_bit_beside_an_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.mailbox_error = MailboxMoment.ANSWERED
    send(words, clock, READ, *READ_8)
    clock.now += 1
    assert words[FROM_INFO] == VALUE | ERROR
    assert [words[FROM_DATA] for _ in range(6)][4] == 0
    assert words[FROM_INFO] == ERROR
    assert gpu.complaints == []


def test_a_mailbox_may_tell_a_size_that_is_not_the_answers(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.answer_size = 0xFFFFC
    send(words, clock, READ, *READ_8)
    assert words[FROM_INFO] == 0
    clock.now += 1
    assert words[FROM_INFO] == READY | 0xFFFFC
    for _ in range(7):
        words[FROM_DATA]
    assert complaint(gpu) == "a word read from an empty mailbox"
