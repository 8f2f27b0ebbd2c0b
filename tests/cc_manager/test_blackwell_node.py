"""Blackwell GPUs of the simulated node: client and emulator, each written from the facts, meet."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.apply import Failure
from cc_manager.mode import CcMode
from cc_manager.plan import plan_transition
from cc_manager.report import status
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import QUICK, CcNode
from tests.fakes.gpu import EmulatedDevice, FspError, MailboxMoment
from tests.fakes.parts import B200, gpu

RTX = 0x2BB1
FIRST, SECOND = PciAddress(0, 0x1B, 0, 0), PciAddress(0, 0x1C, 0, 0)
STALE_OFF = (0xC000_0000, 0x1510_DE7E, 0, 0x13, 0, 0)
"""A valid answer that nobody living asked for: some knob is 0."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """A B200 and an RTX of the same generation, whose boot register is elsewhere."""
    rtx = replace(gpu(str(SECOND), RTX, group=11), pci_class=0x030000)
    with CcNode(tmp_path, hardware=(gpu(str(FIRST), B200, group=10), rtx)) as node:
        yield node


def change(node: CcNode, mode: str) -> tuple[str, ...]:
    return node.setter(QUICK).set(CcMode(mode)).reasons


def emulated(
    node: CcNode, *, has_dvsec: bool = True, firewall_time_s: float, bus_error_time_s: float, boot_time_s: float
) -> None:
    """Other devices in the same places."""
    for address, device in node.devices.items():
        another = EmulatedDevice(
            device.chip,
            clock=node.time.now,
            call_at=node.time.call_at,
            has_dvsec=has_dvsec,
            firewall_time_s=firewall_time_s,
            bus_error_time_s=bus_error_time_s,
            boot_time_s=boot_time_s,
        )
        node.devices[address] = another
        node.kernel.attach(address, another)


@pytest.mark.parametrize("before", ["off", "on", "devtools"])
def test_every_mode_is_reached_from_every_other_and_the_second_plan_is_empty(node: CcNode, before: str) -> None:
    for mode in ("off", "on", "devtools"):
        node.put_into(before)
        assert change(node, mode) == ()
        node.assert_all_in(mode)
        assert plan_transition(node.setter().observe({}, knobs=True), CcMode(mode)).is_done


def test_field_18_the_invalid_state_is_repaired(node: CcNode) -> None:
    for device in node.devices.values():
        device.knobs.update({6: 1, 8: 0})
        device.reset()
    node.time.sleep(20)
    assert [str(one.active) for one in node.setter().look()] == ["invalid (CC mode bits 0b10, PPCIe off)"] * 2
    assert change(node, "off") == ()
    node.assert_all_in("off")


def test_a_firewall_a_bus_that_errs_and_a_slow_boot_are_waited_for(node: CcNode) -> None:
    emulated(node, firewall_time_s=4.9, bus_error_time_s=9.0, boot_time_s=14.0)
    assert change(node, "on") == ()
    node.assert_all_in("on")


def test_without_the_capability_three_seconds_are_enough(node: CcNode) -> None:
    emulated(node, has_dvsec=False, firewall_time_s=2.9, bus_error_time_s=5.0, boot_time_s=6.0)
    assert change(node, "on") == ()
    node.assert_all_in("on")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("firewall_stays_up", "the firewall before its BAR0 is still up after 5 s"),
        ("bus_errors_never_end", "its boot is not complete"),
        ("boot_never_completes", "its boot is not complete"),
    ],
)
def test_a_boot_that_never_ends_is_told_as_what_it_is(node: CcNode, fault: str, said: str) -> None:
    setattr(node.devices[FIRST].faults, fault, True)
    reasons = change(node, "on")
    assert reasons
    assert reasons[0].startswith(str(FIRST))
    assert said in reasons[0]


def test_ppcie_is_refused_with_the_modes_that_there_are_and_nothing_is_touched(node: CcNode) -> None:
    (first, second) = change(node, "ppcie")
    assert first == (
        f"{FIRST}: it is a Blackwell GPU (GB10x, GB11x), which has no mode ppcie; set the label nvidia.com/cc.mode to "
        "one of off, on, devtools"
    )
    assert second.startswith(f"{SECOND}: it is a Blackwell GPU (GB20x), which has no mode ppcie")
    assert node.kernel.writes == []
    assert [device.knob_writes for device in node.devices.values()] == [[], []]


def test_a_stale_answer_of_a_tool_that_was_killed_is_not_taken_for_ours(node: CcNode) -> None:
    node.put_into("on")
    for device in node.devices.values():
        device.faults.stale_answer = STALE_OFF
    assert [str(one.staged) for one in node.setter().observe({}, knobs=True)] == ["on", "on"]


def test_a_mailbox_that_a_killed_tool_left_half_full_is_told_and_a_reset_mends_it(node: CcNode) -> None:
    node.devices[FIRST].faults.left_in_queue = (0xC000_0000,)
    (reason,) = change(node, "on")
    assert reason.startswith(f"{FIRST}: could not read knob ")
    assert "the FSP did not become ready for a message within 5 s" in reason
    node.node.sysfs.reset(FIRST, 20.0)
    node.time.sleep(5)
    assert change(node, "on") == ()


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        (MailboxMoment.IDLE, "the mailbox to the FSP reports an error"),
        (MailboxMoment.ANNOUNCED, "the mailbox to the FSP reports an error"),
        (MailboxMoment.SENT, "the mailbox to the FSP reports an error"),
        (MailboxMoment.WAITING, "the mailbox from the FSP reports an error"),
        (MailboxMoment.ANSWERED, "the mailbox from the FSP reports an error"),
    ],
)
def test_an_error_of_the_mailbox_is_told_at_every_moment(node: CcNode, moment: MailboxMoment, said: str) -> None:
    node.devices[FIRST].faults.mailbox_error = moment
    (reason,) = change(node, "on")
    assert reason.startswith(str(FIRST))
    assert said in reason
    assert node.resets() == []


def test_an_fsp_that_gives_no_more_credits_is_told(node: CcNode) -> None:
    node.devices[FIRST].faults.credits_end_after = 0
    (reason,) = change(node, "on")
    assert "the FSP did not take more of a message within 1 s" in reason


@pytest.mark.parametrize("size", [0, 3, 5000])
def test_a_size_that_makes_no_sense_is_told(node: CcNode, size: int) -> None:
    node.devices[FIRST].faults.answer_size = size
    (reason,) = change(node, "on")
    assert reason.startswith(str(FIRST))


def test_a_firmware_error_is_told_with_its_code_and_the_other_gpu_is_put_back(node: CcNode) -> None:
    node.devices[FIRST].faults.fsp_errors = (FspError(0x42, knob=8, is_write=True),)
    (reason,) = change(node, "on")
    assert reason == str(Failure(FIRST, "could not set knob 8 (cc) to 1: the FSP answered with error 0x42"))
    node.assert_all_in("off")


def test_field_19_status_reads_the_mode_and_writes_nothing(node: CcNode) -> None:
    node.put_into("on")
    written: list[int] = []
    node.on_access.append(lambda _address, offset, value: written.append(offset) if value is not None else None)
    assert [str(one.active) for one in node.setter().look()] == ["on", "on"]
    assert (written, node.kernel.writes) == ([], [])


def test_a_gpu_whose_bar0_is_closed_to_the_host_says_so(node: CcNode) -> None:
    assert [one.is_decoupled for one in node.setter().look()] == [False, False]
    for device in node.devices.values():
        device.knobs[10] = 2
        device.reset()
    node.time.sleep(20)
    assert [one.is_decoupled for one in node.setter().look()] == [True, True]
    (note,) = status(node.setter().look()).notes
    assert note == f"{FIRST} and 1 more: its BAR0 is closed to the host but for a few registers (decoupler)"


def test_status_while_it_boots_says_so(node: CcNode) -> None:
    emulated(node, firewall_time_s=1.0, bus_error_time_s=2.0, boot_time_s=3.0)
    for device in node.devices.values():
        device.reset()
    said = []
    for _ in range(3):
        said.append({str(one.problem) for one in node.setter().look()})
        node.time.sleep(1.0)
    assert all("the firewall before its BAR0 is still up: it is resetting" in text for text in said[0])
    assert all("its boot is not complete" in text for text in said[1] | said[2])
    assert [str(one.active) for one in node.setter().look()] == ["off", "off"]
