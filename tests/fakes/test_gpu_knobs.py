"""The knobs of the emulated firmware: who may change them, to what, and what is left by a wrong order.

Facts, section 4.
"""

import pytest

from tests.fakes.gpu import Chip, EmulatedDevice, Words
from tests.fakes.gpu_script import ANSWER, WHOLE, Clock, ask, complaint, open_channel, read_knob, write_knob


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


@pytest.mark.parametrize("chip", [Chip.GH100, Chip.NVSWITCH_GEN3])
def test_a_knob_is_read(chip: Chip, clock: Clock) -> None:
    device = EmulatedDevice(chip, knobs={8: 1}, clock=clock)
    words = device.bar0()
    open_channel(words)
    answer = ask(words, clock, 0xC0000000, 0x1310DE7E, 0x0008020C)
    assert answer[:2] == [0xC0000000, 0x1510DE7E]
    assert answer[3:5] == [0x13, 0]
    assert len(answer) == 6
    assert answer[5] & 0xFFFF == 1
    assert device.requests == [(0x1310DE7E, 0x0008020C)]
    assert device.complaints == []


def test_a_knob_is_written_and_keeps_its_value_over_a_reset(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    answer = ask(words, clock, 0xC0000000, 0x1310DE7E, 0x0008020D, 0x00000001)
    assert answer[:2] == [WHOLE, ANSWER]
    assert answer[3:] == [0x13, 0]
    assert gpu.knob_writes == [(8, 1)]
    gpu.reset()
    clock.now += 3
    open_channel(words)
    assert read_knob(words, clock, 8)[5] & 0xFFFF == 1
    assert gpu.complaints == []


def test_the_upper_half_of_a_value_is_rubbish_that_looks_like_a_bus_error(words: Words, clock: Clock) -> None:
    assert read_knob(words, clock, 8)[5] == 0xBADF0000


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


@pytest.mark.parametrize("knob", [7, 35, 36, 46, 47])
def test_a_permission_or_an_unused_knob_is_not_for_the_host_to_write(
    gpu: EmulatedDevice, words: Words, clock: Clock, knob: int
) -> None:
    before = gpu.knobs[knob]
    assert write_knob(words, clock, knob, 2) not in {0, 0x1E3}
    assert gpu.knobs[knob] == before
    assert complaint(gpu) == f"knob {knob} is not for the host to write"


def test_a_value_of_more_than_16_bits_is_refused(gpu: EmulatedDevice, words: Words, clock: Clock) -> None:
    assert write_knob(words, clock, 10, 0xFFFF) == 0
    assert write_knob(words, clock, 10, 0x10000) not in {0, 0x1E3}
    assert gpu.knobs[10] == 0xFFFF
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
