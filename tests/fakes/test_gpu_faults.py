"""What can be made to go wrong with an emulated GPU, fault by fault."""

import pytest

from tests.fakes.gpu import Chip, EmulatedDevice, FspError, Words
from tests.fakes.gpu_script import (
    ANSWER,
    BASE,
    COMMAND_HEAD,
    COMMAND_TAIL,
    CONTROL,
    EMEMC,
    EMEMD,
    MESSAGE_TAIL,
    WHOLE,
    Clock,
    ask,
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


GONE = 0xFFFFFFFF
IDENTITY, GPU_BOOT, GPU_MODE = 0, 0x200BC // 4, 0x1182CC // 4
GPU_RECOVERY, SWITCH_RECOVERY = 0x20120 // 4, 0x66120 // 4


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


def test_a_silent_fsp_takes_packets_and_never_answers(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.fsp_is_silent = True
    send(words, *WRITE_8)
    clock.now += 1000
    assert not has_command(words)
    assert not has_message(words)
    assert gpu.knobs[8] == 1


def test_an_fsp_that_falls_silent_at_the_request_that_the_test_names(
    gpu: EmulatedDevice, words: Words, clock: Clock
) -> None:
    gpu.faults.fsp_silent_from, gpu.faults.fsp_silent_to = 2, 3
    assert read_knob(words, clock, 8)[4] == 0
    send(words, *WRITE_8)
    clock.now += 5
    assert not has_message(words)
    assert gpu.knobs[8] == 1
    send(words, *READ_8)
    clock.now += 5
    assert not has_message(words)
    assert read_knob(words, clock, 8)[4] == 0
    assert gpu.complaints == []


def test_a_client_that_waited_in_vain_may_ask_again(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.fsp_is_silent = True
    send(words, *READ_8)
    clock.now += 0.25
    assert not has_command(words)
    clock.now += 4.75
    assert not has_message(words)
    gpu.faults.fsp_is_silent = False
    assert read_knob(words, clock, 8)[4] == 0
    assert gpu.complaints == []


def test_a_hung_fsp_leaves_packets_in_the_queue(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.fsp_is_hung = True
    send(words, *WRITE_8)
    clock.now += 1000
    assert has_command(words)
    assert gpu.knobs[8] == 0


def test_the_fsp_answers_with_the_error_that_the_test_names(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.fsp_errors = (
        FspError(0x1E3, knob=34),
        FspError(0x55, knob=8, is_write=True),
        FspError(0x66, knob=10),
    )
    assert read_knob(words, clock, 34)[4:] == [0x1E3]
    assert read_knob(words, clock, 8)[4] == 0
    assert write_knob(words, clock, 8, 1) == 0x55
    assert write_knob(words, clock, 10, 2) == 0x66
    assert write_knob(words, clock, 2, 1) == 0
    gpu.faults.fsp_errors = (FspError(0x88, times=1),)
    assert write_knob(words, clock, 10, 0) == 0x88
    assert read_knob(words, clock, 10)[4] == 0
    gpu.faults.fsp_errors = (FspError(0x77),)
    assert read_knob(words, clock, 2)[4] == 0x77
    assert gpu.knob_writes == [(2, 1)]
    assert gpu.complaints == []


def test_the_fsp_answers_with_the_words_that_the_test_names(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.answer_instead = (WHOLE, ANSWER, 1, 0x13)
    assert ask(words, clock, *READ_8) == [WHOLE, ANSWER, 1, 0x13]
    gpu.faults.answer_instead = (WHOLE,) * 256
    assert ask(words, clock, *READ_8) == [WHOLE] * 256


def test_the_queue_may_tell_a_size_that_is_not_the_answers(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.answer_size = 2048
    send(words, *READ_8)
    clock.now += 1
    assert has_message(words)
    assert words[MESSAGE_TAIL] == BASE + 2044


@pytest.mark.parametrize("size", [1, 257])
def test_the_queue_cannot_carry_an_answer_of_any_size(
    gpu: EmulatedDevice, words: Words, clock: Clock, size: int
) -> None:
    gpu.faults.answer_instead = (WHOLE,) * size
    send(words, *READ_8)
    clock.now += 1
    with pytest.raises(AssertionError, match="cannot tell this size"):
        has_message(words)


def test_a_stale_answer_waits_in_the_queue(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    gpu.faults.stale_answer = (WHOLE, ANSWER, 9, 0x13, 0, 1)
    assert has_message(words)
    assert words[MESSAGE_TAIL] == BASE + 5 * 4
    open_channel(words)
    assert not has_message(words)
    assert read_knob(words, clock, 8)[5] & 0xFFFF == 0
    assert gpu.complaints == []


def test_a_stale_answer_may_come_late_and_is_drained(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.faults.stale_answer = (WHOLE, ANSWER, 9, 0x13, 0, 1)
    gpu.faults.stale_after_s = 4
    assert not has_message(words)
    clock.now += 4
    assert receive(words) == [WHOLE, ANSWER, 9, 0x13, 0, 1]
    assert read_knob(words, clock, 8)[5] & 0xFFFF == 0
    assert gpu.complaints == []


def test_a_queue_that_a_killed_tool_left_is_dirty_until_the_channel_is_opened(
    gpu: EmulatedDevice, clock: Clock
) -> None:
    words = gpu.bar0()
    gpu.faults.left_in_queue = WRITE_8
    assert words[COMMAND_TAIL] - words[COMMAND_HEAD] == 3 * 4
    words[EMEMC] = CONTROL
    assert [words[EMEMD] for _ in WRITE_8] == list(WRITE_8)
    clock.now += 1000
    assert has_command(words)
    open_channel(words)
    clock.now += 1
    assert not has_command(words)
    assert gpu.knobs[8] == 0
    assert read_knob(words, clock, 8)[4] == 0
    assert gpu.complaints == []


def test_while_the_device_boots_the_fsp_does_not_listen(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    gpu.reset()
    open_channel(words)
    send(words, *WRITE_8)
    clock.now += 2.9
    assert has_command(words)
    clock.now += 1
    assert not has_command(words)
    assert not has_message(words)
    assert gpu.knobs[8] == 0


def test_the_fsp_of_a_device_that_never_boots_may_still_answer(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    # Facts, section 5: "if boot does not complete in time the FSP may still answer".
    gpu.faults.boot_never_completes = True
    gpu.faults.fsp_answers_while_booting = True
    gpu.reset()
    open_channel(words)
    assert read_knob(words, clock, 8)[4] == 0
    assert gpu.complaints == []


def test_the_fsp_of_a_device_in_recovery_is_silent(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    send(words, *READ_8)
    gpu.faults.is_in_recovery = True
    clock.now += 1
    assert not has_message(words)


def test_a_boot_that_never_completes(gpu: EmulatedDevice, clock: Clock) -> None:
    gpu.faults.boot_never_completes = True
    assert gpu.bar0()[GPU_BOOT] == 0xFF
    gpu.reset()
    clock.now += 1000
    assert gpu.bar0()[GPU_BOOT] != 0xFF
    gpu.faults.boot_never_completes = False
    assert gpu.bar0()[GPU_BOOT] == 0xFF


def test_a_mode_that_does_not_stick(gpu: EmulatedDevice, clock: Clock) -> None:
    gpu.faults.keeps_old_mode = True
    gpu.knobs[8] = 1
    gpu.reset()
    clock.now += 3
    assert gpu.bar0()[GPU_BOOT] == 0xFF
    assert gpu.bar0()[GPU_MODE] == 0
    assert gpu.knobs[8] == 1


def test_a_device_that_vanishes_in_its_reset_reads_all_ones(gpu: EmulatedDevice) -> None:
    gpu.faults.gone_at_reset = True
    gpu.reset()
    assert gpu.bar0()[IDENTITY] == GONE
    gpu.reset()
    assert gpu.resets == 1


def test_a_device_falls_off_the_bus_at_the_access_that_the_test_names(gpu: EmulatedDevice) -> None:
    words = gpu.bar0()
    gpu.faults.gone_at_access = gpu.accesses + 2
    assert words[GPU_BOOT] == 0xFF
    assert words[GPU_BOOT] == GONE
    assert gpu.gone
    assert gpu.accesses == 2


@pytest.mark.parametrize(
    ("chip", "register", "boot"),
    [(Chip.GH100, GPU_RECOVERY, 0x200BC), (Chip.NVSWITCH_GEN3, SWITCH_RECOVERY, 0x660BC)],
)
def test_recovery_mode_is_a_bit_and_no_boot(chip: Chip, register: int, boot: int) -> None:
    device = EmulatedDevice(chip)
    assert not device.bar0()[register] >> 30 & 1
    device.faults.is_in_recovery = True
    assert device.bar0()[register] >> 30 & 1
    assert device.bar0()[boot // 4] != 0xFF


def test_a_security_fault_shows_as_the_identity(gpu: EmulatedDevice) -> None:
    gpu.faults.identity = 0xBADF0200
    assert gpu.bar0()[IDENTITY] == 0xBADF0200


def test_a_write_to_a_device_that_is_not_working_is_complained_of(gpu: EmulatedDevice) -> None:
    # Facts, section 5: "in both cases report and write nothing".
    gpu.faults.identity = 0xBADF0200
    gpu.bar0()[EMEMC] = CONTROL
    assert gpu.complaints == ["0x8f2ad0 := 0x3000800 on a device that is not working"]
    assert gpu.bar0()[EMEMC] == 0
