"""A mode staged in the firmware of one device: every access, in its order."""

import pytest

from cc_manager.clock import Clock
from cc_manager.errors import FirmwareError, NotAllowedInBand, NotBooted
from cc_manager.gpu.chips import HOPPER_GPU
from cc_manager.gpu.hardware import Device
from cc_manager.gpu.knobs import Knob, KnobWrite
from cc_manager.mode import CcMode
from nodelib.errors import DeviceGone
from tests.cc_manager.scripted import (
    ADDRESS,
    EMPTY,
    GPU_BUS_SETUP,
    GPU_HEALTHY,
    GPU_READY,
    GPU_READY_AGAIN,
    MESSAGE_HEAD,
    OPENING,
    SWITCH_READY,
    FakeTime,
    Read,
    Script,
    answer,
    gpu,
    knob_read,
    knob_written,
    played,
    queue,
    receiving,
    sending,
    switch,
)


def test_staging_on_for_a_gpu_that_is_off_access_by_access() -> None:
    script = [
        *GPU_READY,
        # what is there
        *knob_read(0x0002_020C, 0),
        *knob_read(0x0004_020C, 0),
        *knob_read(0x0022_020C, 0),
        *knob_read(0x002D_020C, 0),
        *knob_read(0x000A_020C, 0),
        *knob_read(0x0008_020C, 0),
        *knob_read(0x0006_020C, 0),
        # may it be changed
        *knob_read(0x0009_020C, 1),
        *knob_read(0x0007_020C, 1),
        # the changes
        *knob_written(0x000A_020D, 2),
        *knob_written(0x0008_020D, 1),
        # read back
        *knob_read(0x000A_020C, 2),
        *knob_read(0x0008_020C, 1),
    ]
    with played(script) as registers:
        assert gpu(registers).stage(CcMode.ON) == (KnobWrite(Knob.DECOUPLER, 2), KnobWrite(Knob.CC, 1))


def test_staging_off_for_a_gpu_that_is_on_without_the_ppcie_knob() -> None:
    script = [
        *GPU_READY,
        *knob_read(0x002D_020C, None),
        *knob_read(0x000A_020C, 2),
        *knob_read(0x0006_020C, 0),
        *knob_read(0x0008_020C, 1),
        *knob_read(0x0009_020C, 1),
        *knob_read(0x0007_020C, 1),
        *knob_written(0x000A_020D, 0),
        *knob_written(0x0008_020D, 0),
        *knob_read(0x000A_020C, 0),
        *knob_read(0x0008_020C, 0),
    ]
    with played(script) as registers:
        assert gpu(registers).stage(CcMode.OFF) == (KnobWrite(Knob.DECOUPLER, 0), KnobWrite(Knob.CC, 0))


def test_staging_any_other_mode_than_ppcie_for_a_switch_that_has_it() -> None:
    script = [
        *SWITCH_READY,
        *knob_read(0x000A_020C, 0),
        *knob_read(0x002D_020C, 1),
        *knob_read(0x002C_020C, 1),
        *knob_written(0x002D_020D, 0),
        *knob_read(0x002D_020C, 0),
    ]
    with played(script) as registers:
        assert switch(registers).stage(CcMode.ON) == (KnobWrite(Knob.PPCIE, 0),)


def on_is_staged() -> Script:
    """The reads of staging `on` where it is staged already."""
    return [
        *knob_read(0x0002_020C, 0),
        *knob_read(0x0004_020C, 0),
        *knob_read(0x0022_020C, 0),
        *knob_read(0x002D_020C, 0),
        *knob_read(0x000A_020C, 2),
        *knob_read(0x0008_020C, 1),
        *knob_read(0x0006_020C, 0),
    ]


def test_a_mode_that_is_staged_already_is_only_read() -> None:
    with played([*GPU_READY, *on_is_staged()]) as registers:
        assert gpu(registers).stage(CcMode.ON) == ()


def test_the_bus_is_set_up_and_the_channel_opened_once_a_boot() -> None:
    script = [*GPU_READY, *on_is_staged(), *GPU_READY_AGAIN, *on_is_staged()]
    with played(script) as registers:
        device = gpu(registers)
        device.stage(CcMode.ON)
        assert device.stage(CcMode.ON) == ()


def test_after_a_reset_the_bus_is_set_up_and_the_channel_opened_again() -> None:
    script = [
        *GPU_READY, *on_is_staged(),
        *GPU_HEALTHY, *GPU_BUS_SETUP, Read(0x200BC, 0), Read(0x200BC, 0xFF),
        *GPU_READY_AGAIN, *OPENING, *on_is_staged(),
    ]  # fmt: skip
    with played(script) as registers:
        device = gpu(registers)
        device.stage(CcMode.ON)
        device.prepare()
        device.wait_for_boot()
        device.stage(CcMode.ON)


def test_a_knob_that_the_host_may_not_change_names_the_baseboard_controller_and_nothing_is_written() -> None:
    script = [
        *GPU_READY,
        *knob_read(0x002D_020C, 0),
        *knob_read(0x000A_020C, 2),
        *knob_read(0x0006_020C, 0),
        *knob_read(0x0008_020C, 1),
        *knob_read(0x0009_020C, 1),
        *knob_read(0x0007_020C, 0),
    ]
    with played(script) as registers, pytest.raises(NotAllowedInBand) as caught:
        gpu(registers).stage(CcMode.OFF)
    assert str(caught.value) == (
        "0000:3b:00.0: could not set knob 8 (cc) to 0: the host may not change it (knob 7 (cc allowed) is 0); "
        "only the baseboard controller (BMC) can: set it there, or allow it in band there"
    )


def test_ppcie_on_firmware_without_it_is_refused_before_anything_is_written() -> None:
    requests = (0x0002_020C, 0x0004_020C, 0x0022_020C, 0x0006_020C, 0x0008_020C, 0x000A_020C)
    script = [
        *GPU_READY,
        *(access for word in requests for access in knob_read(word, 0)),
        *knob_read(0x002D_020C, None),
    ]
    with (
        played(script) as registers,
        pytest.raises(FirmwareError, match=r"could not set knob 45 \(ppcie\): this firmware does not have the knob"),
    ):
        gpu(registers).stage(CcMode.PPCIE)


def test_a_restriction_knob_that_is_absent_is_an_error_and_not_old_firmware() -> None:
    requests = (0x0004_020C, 0x0022_020C, 0x002D_020C, 0x000A_020C, 0x0008_020C, 0x0006_020C)
    script = [*GPU_READY, *knob_read(0x0002_020C, None), *(a for word in requests for a in knob_read(word, 0))]
    with (
        played(script) as registers,
        pytest.raises(FirmwareError, match=r"could not set knob 2 \(restriction 2\).*0x1e3"),
    ):
        gpu(registers).stage(CcMode.ON)


def test_an_error_in_the_middle_ends_the_staging() -> None:
    script = [
        *GPU_READY,
        *knob_read(0x002D_020C, 0),
        *knob_read(0x000A_020C, 2),
        *knob_read(0x0006_020C, 0),
        *knob_read(0x0008_020C, 1),
        *knob_read(0x0009_020C, 1),
        *knob_read(0x0007_020C, 1),
        *knob_written(0x000A_020D, 0),
        *sending(0xC000_0000, 0x1310_DE7E, 0x0008_020D, 0),
        *receiving(*answer(code=0x33)),
    ]
    with (
        played(script) as registers,
        pytest.raises(FirmwareError, match=r"could not set knob 8 \(cc\) to 0: the FSP answered with error 0x33"),
    ):
        gpu(registers).stage(CcMode.OFF)


def test_a_knob_that_does_not_hold_its_value_is_an_error() -> None:
    script = [
        *SWITCH_READY,
        *knob_read(0x000A_020C, 0),
        *knob_read(0x002D_020C, 1),
        *knob_read(0x002C_020C, 1),
        *knob_written(0x002D_020D, 0),
        *knob_read(0x002D_020C, 1),
    ]
    with (
        played(script) as registers,
        pytest.raises(FirmwareError, match=r"could not set knob 45 \(ppcie\) to 0: it reads 1 afterwards"),
    ):
        switch(registers).stage(CcMode.OFF)


# --- where boot does not complete


def test_where_boot_never_completes_the_fsp_is_tried_once_and_may_still_do_it() -> None:
    script = [
        *GPU_HEALTHY, *GPU_BUS_SETUP, Read(0x200BC, 0), Read(0x200BC, 0), *GPU_HEALTHY, Read(0x200BC, 0), *OPENING,
        *knob_read(0x0008_020C, 1),
        *on_is_staged(),
    ]  # fmt: skip
    with played(script) as registers:
        assert gpu(registers, FakeTime(lag_s=60)).stage(CcMode.ON) == ()


def test_where_boot_never_completes_and_the_fsp_is_silent_both_are_reported() -> None:
    script = [
        *GPU_HEALTHY, *GPU_BUS_SETUP, Read(0x200BC, 0), Read(0x200BC, 0), *GPU_HEALTHY, Read(0x200BC, 0), *OPENING,
        *sending(0xC000_0000, 0x1310_DE7E, 0x0008_020C),
        *queue(MESSAGE_HEAD, EMPTY) * 2,
        Read(0x200BC, 0),
    ]  # fmt: skip
    with played(script) as registers, pytest.raises(NotBooted) as caught:
        gpu(registers, FakeTime(lag_s=60)).stage(CcMode.ON)
    assert str(caught.value) == (
        "0000:3b:00.0: could not reach its firmware: its boot is not complete, and the FSP did not answer within 5 s "
        "(register 0x200bc reads 0x0 and not 0xff); reset the device, or power-cycle the node if that does not help"
    )


# --- what goes wrong half way


def test_a_device_that_leaves_the_bus_in_the_middle_is_gone() -> None:
    script = [*GPU_READY, *knob_read(0x002D_020C, 0), Read(MESSAGE_HEAD, 0xFFFF_FFFF)]
    with played(script) as registers, pytest.raises(DeviceGone):
        gpu(registers).stage(CcMode.OFF)


def test_a_daemon_that_is_told_to_stop_does_not_wait_for_an_answer_and_the_next_request_clears_the_queues() -> None:
    class ToldToStop(Exception):
        pass

    def sleep(seconds: float) -> None:
        raise ToldToStop

    script = [
        *GPU_READY,
        *sending(0xC000_0000, 0x1310_DE7E, 0x002D_020C),
        *queue(MESSAGE_HEAD, EMPTY),
        *GPU_READY_AGAIN,
        *OPENING,
        *on_is_staged(),
    ]
    with played(script) as registers:
        device = Device(ADDRESS, HOPPER_GPU, registers, Clock(sleep=sleep))
        with pytest.raises(ToldToStop):
            device.stage(CcMode.OFF)
        assert device.stage(CcMode.ON) == ()
