"""A Blackwell GPU, access by access: its registers, its boot through error markers, and modes staged by mailbox."""

import pytest

from cc_manager.errors import BusError, FaultyDevice, FirmwareError, NotAllowedInBand, NotBooted, UnsupportedDevice
from cc_manager.gpu.chips import BLACKWELL_GB1XX, BLACKWELL_GB20X, Part
from cc_manager.gpu.hardware import Device
from cc_manager.gpu.knobs import Knob, KnobWrite
from cc_manager.gpu.registers import Registers
from cc_manager.mode import CcMode, ModeBits
from nodelib.errors import DeviceGone
from tests.cc_manager.mailbox_script import NOBODY_ASKED, knob_read, knob_written
from tests.cc_manager.scripted import ADDRESS, ConstantRegisters, FakeTime, Read, Script, played

IDENTITY = 0x1B20_00A1
NOT_YET = 0xBADF_5040
BOOT = {BLACKWELL_GB1XX.name: 0x200BC, BLACKWELL_GB20X.name: 0xAD00BC}
PARTS = pytest.mark.parametrize("part", [BLACKWELL_GB1XX, BLACKWELL_GB20X], ids=["GB1xx", "GB20x"])

HEALTHY: Script = [Read(0x0, IDENTITY), Read(0x8AA128, 0x1)]
READY: Script = [*HEALTHY, Read(0x200BC, 0xFF), *NOBODY_ASKED]
"""From opening a GB1xx to the first request."""


def blackwell(registers: Registers, part: Part = BLACKWELL_GB1XX, time: FakeTime | None = None) -> Device:
    return Device(ADDRESS, part, registers, (time or FakeTime()).clock)


# --- the active mode


@PARTS
@pytest.mark.parametrize(
    ("word", "bits"), [(0, ModeBits(0)), (1, ModeBits(1)), (3, ModeBits(3)), (2, ModeBits(2)), (5, ModeBits(1))]
)
def test_the_active_mode_takes_three_reads_and_no_write(part: Part, word: int, bits: ModeBits) -> None:
    with played([Read(0x0, IDENTITY), Read(BOOT[part.name], 0xFF), Read(0x590, word)]) as registers:
        assert blackwell(registers, part).active_mode() == bits


@pytest.mark.parametrize(("word", "is_decoupled"), [(0x1, False), (0x5, True)])
def test_a_bar0_that_is_closed_to_the_host_is_told(word: int, is_decoupled: bool) -> None:
    with played([Read(0x590, word)]) as registers:
        assert blackwell(registers).is_decoupled() is is_decoupled


# --- booting


@PARTS
def test_error_markers_while_it_boots_mean_not_yet_and_the_signs_of_a_fault_are_looked_at_afterwards(
    part: Part,
) -> None:
    boot = BOOT[part.name]
    script = [
        Read(0x0, NOT_YET), Read(boot, NOT_YET), Read(boot, NOT_YET),  # no identity, and no boot either
        Read(boot, NOT_YET), Read(boot, 0x0), Read(boot, 0xFF),
        *HEALTHY,
    ]  # fmt: skip
    time = FakeTime()
    with played(script) as registers:
        device = blackwell(registers, part, time)
        device.prepare()
        device.wait_for_boot()
    assert time.slept == [0.01, 0.01]


def test_a_recovery_sign_that_could_not_be_read_before_the_boot_is_read_after_it() -> None:
    script = [
        Read(0x0, IDENTITY), Read(0x8AA128, NOT_YET),
        Read(0x200BC, 0xFF),
        Read(0x0, IDENTITY), Read(0x8AA128, 0x3),
    ]  # fmt: skip
    with played(script) as registers:
        device = blackwell(registers)
        device.prepare()
        with pytest.raises(FaultyDevice, match="recovery mode"):
            device.wait_for_boot()


@PARTS
def test_a_boot_may_take_ten_seconds(part: Part) -> None:
    time = FakeTime()
    registers = ConstantRegisters({0x0: NOT_YET, BOOT[part.name]: NOT_YET})
    with pytest.raises(NotBooted, match=rf"not complete after 10 s \(register {BOOT[part.name]:#x} reads 0xbadf5040"):
        blackwell(registers, part, time).wait_for_boot()
    assert time.slept == [0.01] * 1000
    assert registers.writes == []


def test_an_error_marker_as_identity_after_the_boot_is_an_error() -> None:
    with (
        played([Read(0x0, NOT_YET), Read(0x200BC, 0xFF)]) as registers,
        pytest.raises(BusError, match="0xbadf5040"),
    ):
        blackwell(registers).active_mode()


def test_status_of_a_gpu_that_boots_says_that_it_boots() -> None:
    with (
        played([Read(0x0, NOT_YET), Read(0x200BC, NOT_YET), Read(0x200BC, NOT_YET)]) as registers,
        pytest.raises(NotBooted, match="its boot is not complete"),
    ):
        blackwell(registers).active_mode()


def test_a_gpu_that_leaves_the_bus_while_it_boots_is_gone() -> None:
    with played([Read(0x200BC, NOT_YET), Read(0x200BC, 0xFFFF_FFFF)]) as registers, pytest.raises(DeviceGone):
        blackwell(registers).wait_for_boot()


# --- faults: reported, nothing written


@pytest.mark.parametrize("identity", [0xBADF_0200, 0xBAD0_0200])
def test_a_security_fault_is_no_boot_that_takes_long(identity: int) -> None:
    with (
        played([Read(0x0, identity)]) as registers,
        pytest.raises(FaultyDevice, match=r"its code is at offset 0x14 of NVIDIA's DVSEC capability 0"),
    ):
        blackwell(registers).stage(CcMode.ON)


@pytest.mark.parametrize("word", [0x2, 0x80, 0xFF, 0xABCD_EF02])
def test_a_low_byte_that_is_neither_0_nor_1_means_recovery_mode(word: int) -> None:
    with (
        played([Read(0x0, IDENTITY), Read(0x8AA128, word)]) as registers,
        pytest.raises(FaultyDevice, match=rf"recovery mode \(register 0x8aa128 reads {word:#010x}\)"),
    ):
        blackwell(registers).stage(CcMode.ON)


@pytest.mark.parametrize("word", [0x0, 0x1, 0xABCD_EF00, 0xABCD_EF01])
def test_0_and_1_in_the_low_byte_are_healthy_whatever_is_above(word: int) -> None:
    with played([Read(0x0, IDENTITY), Read(0x8AA128, word)]) as registers:
        blackwell(registers).prepare()


def test_an_identity_of_0_is_no_sign_on_blackwell() -> None:
    with played([Read(0x0, 0)]) as registers:
        assert blackwell(registers).identify() == 0


# --- staging


def test_staging_on_for_a_gpu_that_is_off_access_by_access() -> None:
    script = [
        *READY,
        *knob_read(0x0002_020C, 0), *knob_read(0x0004_020C, 1), *knob_read(0x0022_020C, 0),
        *knob_read(0x0008_020C, 0), *knob_read(0x0006_020C, 0),
        *knob_read(0x0003_020C, 1), *knob_read(0x0007_020C, 1),  # may it be changed
        *knob_written(0x0004_020D, 0), *knob_written(0x0008_020D, 1),
        *knob_read(0x0004_020C, 0), *knob_read(0x0008_020C, 1),
    ]  # fmt: skip
    with played(script) as registers:
        assert blackwell(registers).stage(CcMode.ON) == (KnobWrite(Knob.RESTRICTION_4, 0), KnobWrite(Knob.CC, 1))


def test_staging_devtools_switches_cc_on_first() -> None:
    restrictions = [a for word in (0x0002_020C, 0x0004_020C, 0x0022_020C) for a in knob_read(word, 0)]
    script = [
        *READY, *restrictions,
        *knob_read(0x0008_020C, 0), *knob_read(0x0006_020C, 0),
        *knob_read(0x0007_020C, 1), *knob_read(0x0005_020C, 1),
        *knob_written(0x0008_020D, 1), *knob_written(0x0006_020D, 1),
        *knob_read(0x0008_020C, 1), *knob_read(0x0006_020C, 1),
    ]  # fmt: skip
    with played(script) as registers:
        blackwell(registers).stage(CcMode.DEVTOOLS)


def test_staging_off_switches_devtools_off_first_and_touches_nothing_else() -> None:
    script = [
        *READY,
        *knob_read(0x0006_020C, 1), *knob_read(0x0008_020C, 1),
        *knob_read(0x0005_020C, 1), *knob_read(0x0007_020C, 1),
        *knob_written(0x0006_020D, 0), *knob_written(0x0008_020D, 0),
        *knob_read(0x0006_020C, 0), *knob_read(0x0008_020C, 0),
    ]  # fmt: skip
    with played(script) as registers:
        blackwell(registers).stage(CcMode.OFF)


def test_the_staged_mode_is_in_two_knobs_and_the_ppcie_knob_is_not_asked_for() -> None:
    with played([*READY, *knob_read(0x0006_020C, 1), *knob_read(0x0008_020C, 0)]) as registers:
        assert blackwell(registers).staged_mode() == ModeBits(0b10)


def test_a_knob_that_the_host_may_not_change_names_the_baseboard_controller_and_nothing_is_written() -> None:
    script = [*READY, *knob_read(0x0006_020C, 0), *knob_read(0x0008_020C, 1), *knob_read(0x0007_020C, 0)]
    with played(script) as registers, pytest.raises(NotAllowedInBand, match=r"only the baseboard controller \(BMC\)"):
        blackwell(registers).stage(CcMode.OFF)


def test_a_mode_knob_that_is_absent_is_an_error_and_not_old_firmware() -> None:
    script = [*READY, *knob_read(0x0006_020C, 0), *knob_read(0x0008_020C, None)]
    with (
        played(script) as registers,
        pytest.raises(FirmwareError, match=r"could not set knob 8 \(cc\): this firmware does not have the knob"),
    ):
        blackwell(registers).stage(CcMode.OFF)


def test_ppcie_is_refused_before_any_access() -> None:
    with played([]) as registers, pytest.raises(UnsupportedDevice, match="has no mode ppcie"):
        blackwell(registers).stage(CcMode.PPCIE)


@pytest.mark.parametrize(("mode", "word"), [("off", 0x0), ("on", 0x1), ("on", 0x5), ("devtools", 0x3)])
def test_a_mode_is_verified_by_what_the_register_reads(mode: str, word: int) -> None:
    with played([Read(0x0, IDENTITY), Read(0x200BC, 0xFF), Read(0x590, word)]) as registers:
        assert blackwell(registers).verify(CcMode(mode)).mode is CcMode(mode)
