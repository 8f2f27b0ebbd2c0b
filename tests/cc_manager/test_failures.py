"""One device of several fails while the mode is changed: what the labels say, and what the others are left in.

Each case is field-problems row 25 (ready only if every device was verified), 34 (all or none is told), 38 (the
failure can be seen) and 41 (no knob is left staged) at once.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import QUICK, CcNode
from tests.fakes.gpu import FspError

DEVICES = 3


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    break_it: Callable[[CcNode, PciAddress], None]
    says: str
    """A part of the message that an administrator reads."""
    mend_it: Callable[[CcNode, PciAddress], None] | None = None
    """None: only a power cycle does."""


def faults(**fields: object) -> Callable[[CcNode, PciAddress], None]:
    def set_them(node: CcNode, address: PciAddress) -> None:
        for name, value in fields.items():
            setattr(node.devices[address].faults, name, value)

    return set_them


def knob(number: int, value: int) -> Callable[[CcNode, PciAddress], None]:
    return lambda node, address: node.devices[address].knobs.update({number: value})


def refuse_reset(node: CcNode, address: PciAddress) -> None:
    node.kernel.faults.fail[address, "reset"] = errno.ENOTTY


CASES = (
    Case(
        "its FSP is silent",
        faults(fsp_is_silent=True),
        "could not read knob 6 (devtools): the FSP did not answer within 5 s; reset the device, or power-cycle",
        faults(fsp_is_silent=False),
    ),
    Case("its FSP takes nothing", faults(fsp_is_hung=True), "the FSP did not", faults(fsp_is_hung=False)),
    Case(
        "its FSP refuses everything",
        faults(fsp_errors=(FspError(0x77),)),
        "could not read knob 6 (devtools): the FSP answered with error 0x77",
        faults(fsp_errors=()),
    ),
    Case(
        "its FSP refuses to write CC",
        faults(fsp_errors=(FspError(0x123, knob=8, is_write=True),)),
        "could not set knob 8 (cc) to 1: the FSP answered with error 0x123",
        faults(fsp_errors=()),
    ),
    Case(
        "its FSP answers something else",
        faults(answer_instead=(0xC0000000, 0x1510DE7E, 0, 0x14, 0)),
        "the FSP answered a request of type 0x14, but 0x13 was asked",
        faults(answer_instead=()),
    ),
    Case(
        "its firmware has no CC knob",
        faults(fsp_errors=(FspError(0x1E3, knob=8),)),
        "this firmware does not have the knob (error 0x1e3); update the device's firmware",
        faults(fsp_errors=()),
    ),
    Case(
        "CC may not be changed in band",
        knob(7, 0),
        "could not set knob 8 (cc) to 1: the host may not change it (knob 7 (cc allowed) is 0); only the baseboard",
        knob(7, 1),
    ),
    Case(
        "its mode does not stick",
        faults(keeps_old_mode=True),
        "could not set mode on: the mode register reads off",
        faults(keeps_old_mode=False),
    ),
    Case(
        "its boot never completes",
        faults(boot_never_completes=True),
        "its boot is not complete after 5 s (register 0x200bc reads 0x3 and not 0xff); reset the device",
        faults(boot_never_completes=False),
    ),
    Case(
        "its boot never completes but its FSP answers",
        faults(boot_never_completes=True, fsp_answers_while_booting=True),
        "its boot is not complete after 5 s",
        faults(boot_never_completes=False, fsp_answers_while_booting=False),
    ),
    Case(
        "its reset is refused",
        refuse_reset,
        "/reset (Inappropriate ioctl for device)",
        lambda node, address: node.kernel.faults.fail.clear(),
    ),
    Case("it is lost at its reset", faults(gone_at_reset=True), "/reset (Inappropriate ioctl for device)"),
    Case("it fell off the bus", lambda node, address: node.kernel.fall_off_bus(address), "gone from the bus"),
    Case("it is in recovery mode", faults(is_in_recovery=True), "it is in recovery mode"),
    Case("it has a security fault", faults(identity=0xBADF0200), "it has a security fault"),
    Case("its internal bus is broken", faults(identity=0xBADF5040), "an error marker of the device's internal bus"),
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Verified off and published so."""
    with CcNode(tmp_path, gpus=DEVICES, labels={labels.MODE: "off"}) as node:
        assert node.manager().round().ready
        yield node


def assert_failed(node: CcNode, broken: PciAddress, says: str) -> None:
    """The node tells the truth, and no device that answers will change at its next reset."""
    assert node.api.labels[labels.STATE] == "failed"
    assert node.api.labels[labels.READY] == ""
    message = node.api.annotations[labels.MESSAGE]
    assert says in message
    assert message.startswith(f"{broken}: ")
    assert "\n" not in message
    node.assert_none_in_waiting()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_device_fails_and_the_node_says_so(node: CcNode, case: Case) -> None:
    broken = node.addresses[1]
    case.break_it(node, broken)
    node.want("on")
    result = node.manager().round()
    assert (result.ready, result.retry) == (False, True)
    assert case.says in result.message
    assert_failed(node, broken, case.says)
    assert set(node.api.history_of_labels(labels.READY)) == {None, "false", ""}
    if case.mend_it is not None:
        case.mend_it(node, broken)
        assert node.manager().round().ready
        node.assert_all_in("on")
        node.assert_says("on")


@pytest.mark.parametrize("nth", [1, 4, 30, 75, 91, 92, 100, 180, 230, 260, 290, 330, 360, 400, 430])
def test_a_device_that_leaves_the_bus_at_any_access_of_a_change_is_told(node: CcNode, nth: int) -> None:
    broken = node.addresses[1]
    node.devices[broken].faults.gone_at_access = node.devices[broken].accesses + nth
    node.want("on")
    assert not node.manager().round().ready
    assert_failed(node, broken, "")
    assert node.devices[broken].gone


def test_a_change_makes_about_as_many_accesses_as_the_test_before_tries(node: CcNode) -> None:
    """Otherwise that test would let a device go when all is over."""
    before = node.accesses
    node.want("on")
    node.manager().round()
    assert all(after - earlier >= 430 for after, earlier in zip(node.accesses, before, strict=True))


def test_a_reset_that_does_not_end_is_given_up_and_the_device_is_left_alone(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=DEVICES, labels={labels.MODE: "off"}, answer_within_s=1.0) as node:
        manager = node.manager(replace(QUICK, reset_timeout_s=1.5))
        assert manager.round().ready
        hung = node.addresses[1]
        node.kernel.faults.hang.add((hung, "reset"))
        node.want("on")
        assert not manager.round().ready
        assert_failed(node, hung, "the kernel did not finish the write to ")
        assert "it may still hold the device" in node.api.annotations[labels.MESSAGE]
        node.kernel.release_hangs()
        node.kernel.wait_until_idle()
        assert manager.round().ready
        node.assert_all_in("on")
        node.assert_says("on")


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_field_19_kernel_lockdown_is_named_for_every_device_before_anything_is_changed(node: CcNode, mode: str) -> None:
    node.kernel.set_lockdown(mode)
    node.want("on")
    accesses = node.accesses
    assert not node.manager().round().ready
    assert_failed(node, node.addresses[0], f"kernel lockdown ({mode}) forbids mapping BAR0")
    assert all(str(address) in node.api.annotations[labels.MESSAGE] for address in node.addresses)
    assert node.accesses == accesses
    assert node.resets() == []


def test_field_21_the_devices_that_could_be_verified_are_told_although_one_could_not(node: CcNode) -> None:
    broken = node.addresses[1]
    node.devices[broken].faults.keeps_old_mode = True
    node.want("on")
    node.manager().round()
    told = labels.parse_verified(node.api.annotations[labels.DEVICES])
    assert {address: entry.mode.value for address, entry in told.items()} == {
        node.addresses[0]: "on",
        broken: "off",
        node.addresses[2]: "on",
    }


def test_a_device_that_does_not_answer_has_no_verified_mode(node: CcNode) -> None:
    broken = node.addresses[1]
    node.devices[broken].faults.gone_at_reset = True
    node.want("on")
    node.manager().round()
    assert broken not in labels.parse_verified(node.api.annotations[labels.DEVICES])


def test_field_41_a_device_that_could_not_be_put_back_has_no_verified_mode(node: CcNode) -> None:
    """It is off, and the VM that opens it would have it on."""
    stuck, refusing = node.addresses[0], node.addresses[2]
    node.devices[refusing].faults.fsp_errors = (FspError(0x123, knob=8, is_write=True),)

    def refuse_writes_once_staged(address: PciAddress, offset: int, value: int | None) -> None:
        if node.devices[stuck].knobs[8]:
            node.devices[stuck].faults.fsp_errors = (FspError(0x55, is_write=True),)

    node.on_access.append(refuse_writes_once_staged)
    node.want("on")
    assert not node.manager().round().ready
    message = node.api.annotations[labels.MESSAGE]
    assert f"{stuck}: mode on may still be staged: could not set knob" in message
    assert stuck not in labels.parse_verified(node.api.annotations[labels.DEVICES])
    assert node.api.labels[labels.READY] == ""


def test_all_devices_that_fail_are_named(node: CcNode) -> None:
    for device in node.devices.values():
        device.knobs[7] = 0
    node.want("on")
    node.manager().round()
    message = node.api.annotations[labels.MESSAGE]
    assert [message.count(f"{address}: could not set knob 8") for address in node.addresses] == [1] * DEVICES


def test_one_of_four_switches_that_fails_fails_ppcie(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=2, switches=4, labels={labels.MODE: "on"}) as node:
        assert node.manager().round().ready
        broken = node.addresses[2]
        node.devices[broken].knobs[44] = 0
        node.want("ppcie")
        assert not node.manager().round().ready
        assert_failed(node, broken, "could not set knob 45 (ppcie) to 1: the host may not change it")
        node.assert_all_in("on")


def test_field_29_a_failed_mode_is_tried_again_and_each_time_from_the_start(node: CcNode) -> None:
    broken = node.addresses[1]
    node.devices[broken].knobs[7] = 0
    node.want("on")
    manager = node.manager()
    for _ in range(2):
        assert manager.round().retry
        assert_failed(node, broken, "could not set knob 8")
    writes = len(node.api.history)
    assert manager.round().retry
    assert node.api.history_of_labels(labels.STATE)[-1] == "failed"
    assert len(node.api.history) - writes <= 2
    node.devices[broken].knobs[7] = 1
    assert manager.round().ready
    node.assert_says("on")
