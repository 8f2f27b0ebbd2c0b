"""The emulated GPU and NVSwitch: identity, mode, boot, reset, power, and accesses of BAR0."""

import mmap
import threading
from collections.abc import Callable

import pytest

from tests.fakes.gpu import ActiveMode, Chip, EmulatedDevice, Faults, Words
from tests.fakes.gpu_script import (
    CONTROL,
    EMEMC,
    Clock,
    open_channel,
    read_knob,
    write_knob,
)

GONE = 0xFFFFFFFF
IDENTITY = 0
GPU_BOOT, SWITCH_BOOT = 0x200BC // 4, 0x660BC // 4
GPU_MODE, SWITCH_MODE = 0x1182CC // 4, 0x28C50 // 4
GPU_RECOVERY, SWITCH_RECOVERY = 0x20120 // 4, 0x66120 // 4
BUS_SET_UP_1, BUS_SET_UP_2 = 0x12004C // 4, 0x122204 // 4


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gpu(clock: Clock) -> EmulatedDevice:
    return EmulatedDevice(Chip.GH100, clock=clock, boot_time_s=3)


@pytest.fixture
def switch(clock: Clock) -> EmulatedDevice:
    return EmulatedDevice(Chip.NVSWITCH_GEN3, clock=clock, boot_time_s=3)


def mode_after(chip: Chip, register: int, knobs: dict[int, int]) -> int:
    return EmulatedDevice(chip, knobs=knobs).bar0()[register]


def test_a_gpu_and_a_switch_identify_themselves(gpu: EmulatedDevice, switch: EmulatedDevice) -> None:
    assert gpu.bar0()[IDENTITY] not in {0, GONE, 0xBADF0200, 0xBAD00200}
    assert switch.bar0()[IDENTITY] == 0x007000A1


@pytest.mark.parametrize(
    ("knobs", "bits"),
    [
        ({}, 0b00),
        ({8: 1}, 0b01),
        ({8: 1, 6: 1}, 0b11),
        ({6: 1}, 0b10),
        ({45: 1, 10: 2}, 0b100000),
    ],
)
def test_the_mode_register_of_a_gpu_shows_what_its_knobs_ask_for(knobs: dict[int, int], bits: int) -> None:
    assert mode_after(Chip.GH100, GPU_MODE, knobs) == bits


def test_the_mode_register_of_a_switch_shows_ppcie_alone() -> None:
    assert mode_after(Chip.NVSWITCH_GEN3, SWITCH_MODE, {8: 1}) == 0
    assert mode_after(Chip.NVSWITCH_GEN3, SWITCH_MODE, {45: 1}) == 1


def test_firmware_without_ppcie_never_shows_it(clock: Clock) -> None:
    gpu = EmulatedDevice(Chip.GH100, has_ppcie=False, knobs={8: 1}, clock=clock)
    assert gpu.active == ActiveMode(cc_bits=1, is_ppcie=False)
    assert {44, 45}.isdisjoint(gpu.knobs)
    with pytest.raises(AssertionError):
        EmulatedDevice(Chip.GH100, has_ppcie=False, knobs={45: 1})


def test_a_staged_knob_acts_at_the_next_reset(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    open_channel(words)
    assert write_knob(words, clock, 8, 1) == 0
    assert words[GPU_MODE] == 0
    gpu.reset()
    clock.now += 3
    assert words[GPU_BOOT] == 0xFF
    assert words[GPU_MODE] == 0b01
    assert gpu.resets == 1
    assert gpu.complaints == []


def test_until_boot_is_complete_the_mode_reads_off(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    gpu.knobs[8] = 1
    gpu.reset()
    clock.now += 2.9
    assert words[GPU_BOOT] != 0xFF
    assert words[GPU_MODE] == 0
    assert gpu.active == ActiveMode(cc_bits=1, is_ppcie=False)


def test_a_switch_boots_too(switch: EmulatedDevice, clock: Clock) -> None:
    words = switch.bar0()
    switch.knobs[45] = 1
    switch.reset()
    assert words[SWITCH_BOOT] != 0xFF
    assert words[SWITCH_MODE] == 0
    clock.now += 3
    assert words[SWITCH_BOOT] == 0xFF
    assert words[SWITCH_MODE] == 1


def test_a_device_that_is_gone_reads_all_ones_and_loses_writes(gpu: EmulatedDevice) -> None:
    gpu.gone = True
    gpu.bar0()[EMEMC] = CONTROL
    assert gpu.bar0()[EMEMC] == GONE
    assert gpu.bar0()[GPU_BOOT] == GONE
    gpu.gone = False
    assert gpu.bar0()[EMEMC] == 0


def test_a_sleeping_device_reads_all_ones_and_loses_writes(gpu: EmulatedDevice) -> None:
    gpu.power_state = "D3hot"
    gpu.bar0()[EMEMC] = CONTROL
    assert gpu.bar0()[EMEMC] == GONE
    gpu.power_state = "D0"
    assert gpu.bar0()[EMEMC] == 0
    assert gpu.complaints == []


def test_under_some_emulators_a_sleeping_device_reads_zero(clock: Clock) -> None:
    gpu = EmulatedDevice(Chip.GH100, knobs={8: 1}, clock=clock, faults=Faults(sleeping_reads=0))
    gpu.power_state = "D3hot"
    assert gpu.bar0()[GPU_MODE] == 0


def test_without_memory_decoding_bar0_reads_all_ones_and_loses_writes(gpu: EmulatedDevice) -> None:
    gpu.memory_decoding = False
    gpu.bar0()[EMEMC] = CONTROL
    assert gpu.bar0()[GPU_BOOT] == GONE
    gpu.memory_decoding = True
    assert gpu.bar0()[EMEMC] == 0


def test_the_bus_set_up_is_seen_and_ends_with_a_reset(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    words[BUS_SET_UP_1] = 4
    assert not gpu.bus_set_up
    words[BUS_SET_UP_2] = 2
    assert gpu.bus_set_up
    gpu.reset()
    assert not gpu.bus_set_up
    words[BUS_SET_UP_1] = 4
    words[BUS_SET_UP_2] = 2
    clock.now += 3
    assert words[BUS_SET_UP_2] == 2
    assert gpu.bus_set_up
    assert gpu.complaints == []


def test_a_wrong_bus_set_up_is_complained_of(gpu: EmulatedDevice) -> None:
    gpu.bar0()[BUS_SET_UP_1] = 2
    assert gpu.complaints == ["0x12004c := 0x2 is not the bus set-up"]


def test_a_switch_has_no_bus_set_up(switch: EmulatedDevice) -> None:
    # Facts, section 5: Hopper GPUs only.
    switch.bar0()[BUS_SET_UP_1] = 4
    assert switch.complaints == ["0x12004c := 0x4, which is no register to write"]
    assert not switch.bus_set_up


def test_an_unknown_register_reads_as_a_bus_error_and_is_complained_of(gpu: EmulatedDevice) -> None:
    assert gpu.bar0()[0x4] >> 16 == 0xBADF
    # One past the last of the eight ports.
    assert gpu.bar0()[0x8F2B00 // 4] == gpu.bar0()[0x4]
    assert gpu.complaints[:2] == [
        "read of 0x10, which is no register",
        "read of 0x8f2b00, which is no register",
    ]


@pytest.mark.parametrize("register", [0x4, IDENTITY, GPU_BOOT, GPU_MODE, GPU_RECOVERY])
def test_a_write_to_what_is_no_register_to_write_is_complained_of(gpu: EmulatedDevice, register: int) -> None:
    before = gpu.bar0()[register]
    gpu.complaints.clear()
    gpu.bar0()[register] = 1
    assert len(gpu.complaints) == 1
    assert gpu.bar0()[register] == before


def test_the_registers_of_one_chip_are_not_those_of_another(gpu: EmulatedDevice, switch: EmulatedDevice) -> None:
    assert switch.bar0()[GPU_MODE] >> 16 == 0xBADF
    assert gpu.bar0()[SWITCH_MODE] >> 16 == 0xBADF


def read(words: Words, index: object) -> None:
    words[index]  # type: ignore[index]  # what mypy refuses is what is tried here


def write(words: Words, index: object, value: object) -> None:
    words[index] = value  # type: ignore[index, assignment]  # the same


@pytest.mark.parametrize(
    "access",
    [
        lambda words: read(words, slice(0, 4)),
        lambda words: read(words, 0.0),
        lambda words: read(words, "0"),
        lambda words: read(words, True),
        lambda words: read(words, -1),
        lambda words: read(words, 16 * 1024 * 1024 // 4),
        lambda words: write(words, slice(EMEMC, EMEMC + 1), memoryview(b"\0\0\0\0").cast("I")),
        lambda words: write(words, EMEMC, b"\0\0\0\0"),
        lambda words: write(words, EMEMC, -1),
        lambda words: write(words, EMEMC, 1 << 32),
        lambda words: write(words, EMEMC, 1.0),
        lambda words: write(words, EMEMC, True),
        list,
        bytes,
        lambda words: 0 in words,
    ],
)
def test_an_access_that_is_not_one_word_fails_the_test(gpu: EmulatedDevice, access: Callable[[Words], object]) -> None:
    # DESIGN, section 4, cc-manager: struct and slices copy bytes.
    with pytest.raises(AssertionError):
        access(gpu.bar0())
    assert len(gpu.complaints) == 1
    assert gpu.accesses == 0


def test_a_switch_has_a_larger_bar0_than_a_gpu(switch: EmulatedDevice) -> None:
    last = 32 * 1024 * 1024 // 4 - 1
    assert switch.bar0()[last] >> 16 == 0xBADF
    with pytest.raises(AssertionError):
        switch.bar0()[last + 1]


def test_the_words_stand_in_for_a_mapped_view() -> None:
    """One function, both kinds: what a client does to a mapping it can do to the fake."""

    def write_and_read(words: "Words | memoryview[int]") -> int:
        words[2] = 0xFFFFFFFF
        return words[2]

    with mmap.mmap(-1, 4096) as mapping, memoryview(mapping).cast("I") as view:
        assert write_and_read(view) == 0xFFFFFFFF
    gpu = EmulatedDevice(Chip.GH100)
    assert write_and_read(gpu.bar0()) >> 16 == 0xBADF


def test_accesses_from_several_threads_come_one_after_the_other() -> None:
    meeting = threading.Barrier(2)
    met: list[bool] = []

    def clock() -> float:
        # Two threads that are here at once meet; one that is alone waits in vain.
        try:
            meeting.wait(timeout=0.05)
            met.append(True)
        except threading.BrokenBarrierError:
            met.append(False)
        return 0.0

    gpu = EmulatedDevice(Chip.GH100, clock=clock)
    threads = [threading.Thread(target=lambda: gpu.bar0()[IDENTITY]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [False, False]


def test_nothing_is_remembered_of_a_request_that_a_reset_cut_off(gpu: EmulatedDevice, clock: Clock) -> None:
    words = gpu.bar0()
    open_channel(words)
    read_knob(words, clock, 8)
    words[EMEMC] = CONTROL
    gpu.reset()
    assert words[EMEMC] == 0
