"""What is staged in the firmware of one device, and putting it back to the active mode."""

import pytest

from cc_manager.errors import FirmwareError
from cc_manager.gpu.knobs import Knob, KnobWrite
from cc_manager.mode import CcMode, ModeBits
from tests.cc_manager.scripted import (
    COMMAND_HEAD,
    EMPTY,
    GPU_READY,
    MESSAGE_HEAD,
    SWITCH_READY,
    FakeTime,
    Script,
    gpu,
    knob_read,
    knob_written,
    played,
    queue,
    switch,
)


@pytest.mark.parametrize(
    ("devtools", "cc", "ppcie", "bits"),
    [
        (0, 0, 0, ModeBits(0b00)),
        (0, 1, None, ModeBits(0b01)),
        (1, 1, 0, ModeBits(0b11)),
        (1, 0, 0, ModeBits(0b10)),
        (0, 0, 1, ModeBits(0b00, ppcie=True)),
    ],
)
def test_the_staged_mode_of_a_gpu_is_read_from_three_knobs(
    devtools: int, cc: int, ppcie: int | None, bits: ModeBits
) -> None:
    script = [
        *GPU_READY,
        *knob_read(0x0006_020C, devtools),
        *knob_read(0x0008_020C, cc),
        *knob_read(0x002D_020C, ppcie),
    ]
    with played(script) as registers:
        assert gpu(registers).staged_mode() == bits


def test_a_gpu_without_the_cc_knob_has_no_staged_mode() -> None:
    script = [*GPU_READY, *knob_read(0x0006_020C, 0), *knob_read(0x0008_020C, None), *knob_read(0x002D_020C, 0)]
    with played(script) as registers, pytest.raises(FirmwareError, match=r"could not read knob 8 \(cc\).*0x1e3"):
        gpu(registers).staged_mode()


def test_the_staged_mode_of_a_switch_is_read_from_one() -> None:
    with played([*SWITCH_READY, *knob_read(0x002D_020C, 1)]) as registers:
        assert switch(registers).staged_mode().mode is CcMode.PPCIE


def test_knobs_are_read_as_asked_and_an_absent_one_is_none() -> None:
    script = [*GPU_READY, *knob_read(0x0007_020C, 1), *knob_read(0x002C_020C, None)]
    with played(script) as registers:
        knobs = gpu(registers).read_knobs([Knob.CC_ALLOWED, Knob.PPCIE_ALLOWED])
    assert knobs == {Knob.CC_ALLOWED: 1, Knob.PPCIE_ALLOWED: None}


def test_all_knobs_are_read_in_the_order_of_their_numbers() -> None:
    numbers = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 33, 34, 44, 45)
    script = [*GPU_READY, *(access for number in numbers for access in knob_read(number << 16 | 0x020C, number))]
    with played(script) as registers:
        assert gpu(registers).read_knobs() == {Knob(number): number for number in numbers}


def restored_to_off(*, devtools: int, cc: int) -> Script:
    """From devtools and CC as staged to `off`, the rest being off already."""
    script = [
        *GPU_READY,
        *knob_read(0x002D_020C, 0),
        *knob_read(0x000A_020C, 0),
        *knob_read(0x0006_020C, devtools),
        *knob_read(0x0008_020C, cc),
    ]
    staged = ((0x0006, 0x0005, devtools), (0x0008, 0x0007, cc))
    changed = [(knob, permission) for knob, permission, value in staged if value]
    script += [access for _, permission in changed for access in knob_read(permission << 16 | 0x020C, 1)]
    script += [access for knob, _ in changed for access in knob_written(knob << 16 | 0x020D, 0)]
    script += [access for knob, _ in changed for access in knob_read(knob << 16 | 0x020C, 0)]
    return script


def test_staged_knobs_are_put_back_to_the_active_mode_devtools_before_cc() -> None:
    with played(restored_to_off(devtools=1, cc=1)) as registers:
        restored = gpu(registers).restore_staged(ModeBits(0b00))
    assert restored == (KnobWrite(Knob.DEVTOOLS, 0), KnobWrite(Knob.CC, 0))


def test_a_gpu_that_is_on_is_put_back_to_on() -> None:
    script = [
        *GPU_READY,
        *knob_read(0x0002_020C, 0),
        *knob_read(0x0004_020C, 0),
        *knob_read(0x0022_020C, 0),
        *knob_read(0x002D_020C, 0),
        *knob_read(0x000A_020C, 2),
        *knob_read(0x0008_020C, 0),
        *knob_read(0x0006_020C, 0),
        *knob_read(0x0007_020C, 1),
        *knob_written(0x0008_020D, 1),
        *knob_read(0x0008_020C, 1),
    ]
    with played(script) as registers:
        assert gpu(registers).restore_staged(ModeBits(0b01)) == (KnobWrite(Knob.CC, 1),)


def test_a_switch_that_is_in_no_mode_of_its_own_is_put_back_aside() -> None:
    script = [
        *SWITCH_READY,
        *knob_read(0x000A_020C, 0),
        *knob_read(0x002D_020C, 1),
        *knob_read(0x002C_020C, 1),
        *knob_written(0x002D_020D, 0),
        *knob_read(0x002D_020C, 0),
    ]
    with played(script) as registers:
        assert switch(registers).restore_staged(ModeBits()) == (KnobWrite(Knob.PPCIE, 0),)


def test_an_invalid_active_state_is_not_staged_again_but_off() -> None:
    with played(restored_to_off(devtools=1, cc=0)) as registers:
        assert gpu(registers).restore_staged(ModeBits(0b10)) == (KnobWrite(Knob.DEVTOOLS, 0),)


def test_putting_back_reports_a_silent_fsp() -> None:
    script = [
        *GPU_READY,
        *queue(MESSAGE_HEAD, EMPTY), *queue(COMMAND_HEAD, (0x800, 0x808)),
        *queue(MESSAGE_HEAD, EMPTY), *queue(COMMAND_HEAD, (0x800, 0x808)),
    ]  # fmt: skip
    with played(script) as registers, pytest.raises(FirmwareError, match="did not take an earlier command"):
        gpu(registers, FakeTime(lag_s=60)).restore_staged(ModeBits(0b00))
