"""One device looked at: who it is, whether it is healthy and booted, and in which mode."""

import pytest

from cc_manager.errors import BusError, FaultyDevice, FirmwareError, NotBooted, UnsupportedDevice
from cc_manager.gpu.chips import HOPPER_GPU, NVSWITCH_GEN3, Part
from cc_manager.gpu.hardware import Device
from cc_manager.mode import CcMode, ModeBits
from nodelib.errors import DeviceGone
from tests.cc_manager.scripted import (
    ADDRESS,
    GPU_BUS_SETUP,
    GPU_HEALTHY,
    GPU_IDENTITY,
    SWITCH_IDENTITY,
    ConstantRegisters,
    FakeTime,
    Read,
    Script,
    gpu,
    played,
    switch,
)

# --- identity


def test_a_gpu_and_a_switch_tell_who_they_are() -> None:
    with played([Read(0x0, GPU_IDENTITY)]) as registers:
        assert gpu(registers).identify() == GPU_IDENTITY
    with played([Read(0x0, SWITCH_IDENTITY)]) as registers:
        assert switch(registers).identify() == SWITCH_IDENTITY


def test_a_second_generation_switch_is_not_supported() -> None:
    with (
        played([Read(0x0, 0x0060_00A1)]) as registers,
        pytest.raises(UnsupportedDevice, match=r"not a third-generation NVSwitch \(identity 0x006000a1\)"),
    ):
        switch(registers).identify()


@pytest.mark.parametrize("part", [HOPPER_GPU, NVSWITCH_GEN3])
@pytest.mark.parametrize("identity", [0xBADF_0200, 0xBAD0_0200])
def test_a_security_fault_is_reported_and_nothing_is_written(part: Part, identity: int) -> None:
    with (
        played([Read(0x0, identity)]) as registers,
        pytest.raises(FaultyDevice, match=rf"security fault \(identity reads {identity:#010x}"),
    ):
        Device(ADDRESS, part, registers).stage(CcMode.OFF)


def test_a_switch_whose_identity_reads_0_is_no_switch_that_we_know() -> None:
    with played([Read(0x0, 0)]) as registers, pytest.raises(UnsupportedDevice, match="identity 0x00000000"):
        switch(registers).identify()


def test_the_message_for_a_security_fault_of_a_gpu_says_where_its_code_is() -> None:
    with played([Read(0x0, 0xBADF_0200)]) as registers, pytest.raises(FaultyDevice, match="offset 0x2b4"):
        gpu(registers).identify()


def test_the_code_of_a_security_fault_is_told_where_it_can_be_read() -> None:
    with (
        played([Read(0x0, 0xBAD0_0200)]) as registers,
        pytest.raises(FaultyDevice, match=r"\(identity reads 0xbad00200, code 0x00000017\)"),
    ):
        Device(ADDRESS, HOPPER_GPU, registers, fault_code=lambda: 0x17).identify()


def test_another_error_marker_is_no_security_fault() -> None:
    with played([Read(0x0, 0xBADF_5040)]) as registers, pytest.raises(BusError, match="0xbadf5040"):
        gpu(registers).identify()


@pytest.mark.parametrize(
    ("part", "script"),
    [
        (HOPPER_GPU, [Read(0x0, 0)]),
        (HOPPER_GPU, [Read(0x0, GPU_IDENTITY), Read(0x20120, 0x4000_0000)]),
        (NVSWITCH_GEN3, [Read(0x0, SWITCH_IDENTITY), Read(0x66120, 0x4000_0000)]),
    ],
)
def test_recovery_mode_is_reported_and_nothing_is_written(part: Part, script: Script) -> None:
    for act in (Device.prepare, Device.staged_mode, lambda device: device.stage(CcMode.ON)):
        with played(script) as registers, pytest.raises(FaultyDevice, match="recovery mode"):
            act(Device(ADDRESS, part, registers))


def test_a_device_that_went_into_recovery_mode_since_is_not_written_to_either() -> None:
    script = [*GPU_HEALTHY, *GPU_BUS_SETUP, Read(0x0, GPU_IDENTITY), Read(0x20120, 0x4000_0000)]
    with played(script) as registers:
        device = gpu(registers)
        device.prepare()
        with pytest.raises(FaultyDevice, match=r"recovery mode \(register 0x20120 reads 0x40000000\)"):
            device.stage(CcMode.ON)


def test_a_device_that_is_gone_is_gone() -> None:
    with played([Read(0x0, 0xFFFF_FFFF)]) as registers, pytest.raises(DeviceGone):
        gpu(registers).stage(CcMode.ON)


# --- preparing and booting


def test_a_hopper_gpus_internal_bus_is_set_up() -> None:
    with played([*GPU_HEALTHY, *GPU_BUS_SETUP]) as registers:
        gpu(registers).prepare()


def test_a_recovery_flag_that_the_bus_cannot_reach_before_it_is_set_up_does_not_prevent_that() -> None:
    with played([Read(0x0, GPU_IDENTITY), Read(0x20120, 0xBADF_5040), *GPU_BUS_SETUP]) as registers:
        gpu(registers).prepare()


def test_a_switch_needs_no_bus_set_up() -> None:
    with played([Read(0x0, SWITCH_IDENTITY), Read(0x66120, 0)]) as registers:
        switch(registers).prepare()


@pytest.mark.parametrize(("word", "is_booted"), [(0xFF, True), (0x0, False), (0xFE, False), (0xBADF_5040, False)])
def test_a_boot_is_complete_when_its_register_reads_ff(word: int, is_booted: bool) -> None:
    with played([Read(0x200BC, word)]) as registers:
        assert gpu(registers).is_booted() is is_booted
    with played([Read(0x660BC, word)]) as registers:
        assert switch(registers).is_booted() is is_booted


def test_a_boot_is_waited_for_through_error_markers() -> None:
    time = FakeTime()
    with played([Read(0x200BC, 0xBADF_5040), Read(0x200BC, 0x1), Read(0x200BC, 0xFF)]) as registers:
        gpu(registers, time).wait_for_boot()
    assert time.slept == [0.01, 0.01]


def test_a_boot_that_never_completes_is_given_up_after_five_seconds() -> None:
    time = FakeTime()
    with pytest.raises(NotBooted) as caught:
        gpu(ConstantRegisters({0x0: GPU_IDENTITY, 0x20120: 0, 0x200BC: 0x11}), time).wait_for_boot()
    assert time.slept == [0.01] * 500
    assert str(caught.value) == (
        "0000:3b:00.0: could not bring it up: its boot is not complete after 5 s (register 0x200bc reads 0x11 and not "
        "0xff); reset the device, or power-cycle the node if that does not help"
    )


def test_the_limit_for_a_boot_can_be_set() -> None:
    time = FakeTime()
    with pytest.raises(NotBooted, match=r"after 0\.05 s"):
        gpu(ConstantRegisters({0x0: GPU_IDENTITY, 0x20120: 0, 0x200BC: 0}), time).wait_for_boot(0.05)
    assert time.slept == [0.01] * 5


@pytest.mark.parametrize(
    ("registers", "sign"),
    [({0x0: 0xBADF_0200}, "security fault"), ({0x0: GPU_IDENTITY, 0x20120: 0x4000_0000}, "recovery mode")],
)
def test_a_boot_that_ends_in_a_fault_is_reported_as_the_fault(registers: dict[int, int], sign: str) -> None:
    with pytest.raises(FaultyDevice, match=sign):
        gpu(ConstantRegisters({**registers, 0x200BC: 0}), FakeTime()).wait_for_boot()


def test_a_device_that_leaves_the_bus_while_it_boots_is_gone_at_once() -> None:
    time = FakeTime()
    with played([Read(0x200BC, 0), Read(0x200BC, 0xFFFF_FFFF)]) as registers, pytest.raises(DeviceGone):
        gpu(registers, time).wait_for_boot()


# --- the active mode


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        (0x0, ModeBits(0b00)),
        (0x1, ModeBits(0b01)),
        (0x2, ModeBits(0b10)),
        (0x3, ModeBits(0b11)),
        (0x20, ModeBits(0, True)),
    ],
)
def test_the_active_mode_of_a_gpu_takes_three_reads_and_no_write(word: int, bits: ModeBits) -> None:
    with played([Read(0x0, GPU_IDENTITY), Read(0x200BC, 0xFF), Read(0x1182CC, word)]) as registers:
        assert gpu(registers).active_mode() == bits


@pytest.mark.parametrize(("word", "mode"), [(0, CcMode.OFF), (1, CcMode.PPCIE)])
def test_the_active_mode_of_a_switch(word: int, mode: CcMode) -> None:
    with played([Read(0x0, SWITCH_IDENTITY), Read(0x660BC, 0xFF), Read(0x28C50, word)]) as registers:
        assert switch(registers).active_mode().mode is mode


def test_a_device_that_has_not_booted_has_no_mode_though_the_register_reads_off() -> None:
    with (
        played([Read(0x0, GPU_IDENTITY), Read(0x200BC, 0x0), Read(0x200BC, 0x0)]) as registers,
        pytest.raises(NotBooted, match=r"could not read its active mode: its boot is not complete \(register 0x200bc"),
    ):
        gpu(registers).active_mode()


def test_an_error_marker_in_the_mode_register_is_no_mode() -> None:
    with (
        played([Read(0x0, GPU_IDENTITY), Read(0x200BC, 0xFF), Read(0x1182CC, 0xBADF_5040)]) as registers,
        pytest.raises(BusError),
    ):
        gpu(registers).active_mode()


@pytest.mark.parametrize(("mode", "word"), [("off", 0x0), ("on", 0x1), ("devtools", 0x3), ("ppcie", 0x20)])
def test_a_mode_is_verified_by_what_the_register_reads(mode: str, word: int) -> None:
    with played([Read(0x0, GPU_IDENTITY), Read(0x200BC, 0xFF), Read(0x1182CC, word)]) as registers:
        assert gpu(registers).verify(CcMode(mode)).mode is CcMode(mode)


@pytest.mark.parametrize(("word", "reading"), [(0x0, "off"), (0x2, "invalid"), (0x20, "ppcie"), (0x21, "invalid")])
def test_a_mode_that_did_not_stick_is_an_error(word: int, reading: str) -> None:
    with (
        played([Read(0x0, GPU_IDENTITY), Read(0x200BC, 0xFF), Read(0x1182CC, word)]) as registers,
        pytest.raises(FirmwareError, match=f"could not set mode on: the mode register reads {reading}"),
    ):
        gpu(registers).verify(CcMode.ON)


def test_ppcie_is_not_taken_for_off() -> None:
    with (
        played([Read(0x0, GPU_IDENTITY), Read(0x200BC, 0xFF), Read(0x1182CC, 0x20)]) as registers,
        pytest.raises(FirmwareError, match="could not set mode off: the mode register reads ppcie"),
    ):
        gpu(registers).verify(CcMode.OFF)


def test_a_switch_is_right_for_a_node_in_mode_on_while_its_ppcie_is_off() -> None:
    with played([Read(0x0, SWITCH_IDENTITY), Read(0x660BC, 0xFF), Read(0x28C50, 0)]) as registers:
        assert switch(registers).verify(CcMode.ON).mode is CcMode.OFF
    with (
        played([Read(0x0, SWITCH_IDENTITY), Read(0x660BC, 0xFF), Read(0x28C50, 1)]) as registers,
        pytest.raises(FirmwareError, match="could not set mode off: the mode register reads ppcie"),
    ):
        switch(registers).verify(CcMode.ON)


@pytest.mark.parametrize(
    ("part", "identity", "refusal"),
    [
        (NVSWITCH_GEN3, 0x0060_00A1, UnsupportedDevice),
        (HOPPER_GPU, 0xBADF_0200, FaultyDevice),
        (HOPPER_GPU, 0, FaultyDevice),
    ],
)
def test_a_device_that_is_not_what_it_should_be_has_no_mode(
    part: Part, identity: int, refusal: type[Exception]
) -> None:
    with played([Read(0x0, identity)]) as registers, pytest.raises(refusal):
        Device(ADDRESS, part, registers).active_mode()
