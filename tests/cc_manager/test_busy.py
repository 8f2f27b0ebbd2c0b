"""Devices that a virtual machine has open: what is left alone, what is believed, and what waits for whom."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.settings import WhenBusy
from nodelib.pci import PciAddress
from tests.cc_manager.running import RunningManager
from tests.cc_manager.simulated import QUICK, CcNode, Crash
from tests.fakes.parts import gpu
from tests.fakes.polling import until

FAIL = replace(QUICK, when_busy=WhenBusy.FAIL)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Verified on and published so; the kernel's log begins after that."""
    with CcNode(tmp_path, gpus=3, labels={labels.MODE: "on"}) as node:
        assert node.manager().round().ready
        node.kernel.writes.clear()
        yield node


def writes_to(node: CcNode, address: PciAddress) -> list[str]:
    return [path for path, _ in node.kernel.writes if str(address) in path]


def patches(node: CcNode) -> int:
    return sum(request.verb == "patch" for request in node.api.requests)


def forget_boot(node: CcNode) -> None:
    """The node was booted anew, and a VM was quicker than we are."""
    path = node.node.host.root / "proc/sys/kernel/random/boot_id"
    path.chmod(0o644)
    path.write_text("another-boot\n")


# --- left alone


@pytest.mark.parametrize("settings", [QUICK, FAIL], ids=["wait", "fail"])
def test_field_24_a_device_in_use_gets_no_access_at_all(node: CcNode, settings: object) -> None:
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        accesses = node.accesses
        config = (node.host_folder(busy) / "config").read_bytes()
        manager = node.manager(FAIL if settings is FAIL else QUICK)
        for mode in ("off", "on", "devtools", "yes", None):
            node.want(mode)
            manager.round()
        assert node.accesses[1] == accesses[1]
        assert writes_to(node, busy) == []
        assert (node.host_folder(busy) / "config").read_bytes() == config


def test_field_24_while_one_device_is_in_use_no_other_is_changed_either(node: CcNode) -> None:
    with node.kernel.start_vm(node.addresses[1]):
        node.want("off")
        node.manager().round()
        node.assert_all_in("on")
        assert node.resets() == []


# --- wait


def test_field_26_while_it_waits_the_node_is_ready_for_nobody_and_says_whom_it_waits_for(node: CcNode) -> None:
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        node.want("off")
        result = node.manager().round()
    assert (result.ready, result.retry) == (False, True)
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("on", "")
    assert result.message == node.api.annotations[labels.MESSAGE]
    assert result.message == f"waiting to change to mode off: in use by a virtual machine: {busy}"


def test_all_devices_in_use_are_named(node: CcNode) -> None:
    first, _, last = node.addresses
    with node.kernel.start_vm(first, last):
        node.want("off")
        assert f"{first}, {last}" in node.manager().round().message


def test_when_the_vm_has_ended_the_change_is_made(node: CcNode) -> None:
    with RunningManager(node, interval_s=0.1):
        with node.kernel.start_vm(node.addresses[1]):
            node.want("off")
            node.api.wait_until(lambda: node.api.labels[labels.READY] == "")
            node.assert_all_in("on")
        node.api.wait_until(lambda: node.api.labels[labels.STATE] == "off")
    node.assert_all_in("off")
    node.assert_says("off")


def test_a_label_that_returns_to_the_active_mode_brings_the_ready_value_back_under_the_vm(node: CcNode) -> None:
    with node.kernel.start_vm(node.addresses[1]):
        manager = node.manager()
        node.want("off")
        assert not manager.round().ready
        node.want("on")
        assert manager.round().ready
        node.assert_says("on")
    assert node.api.history_of_labels(labels.READY)[-3:] == ["true", "", "true"]


def test_field_41_knobs_that_a_crash_left_are_put_back_while_it_waits(node: CcNode) -> None:
    left, busy, _ = node.addresses
    with node.kernel.start_vm(busy):
        node.want("off")
        node.devices[left].knobs[8] = 0
        assert not node.manager().round().ready
        node.assert_all_in("on")
        assert labels.parse_verified(node.api.annotations[labels.DEVICES]).keys() == set(node.addresses)


# --- fail


def test_the_policy_fail_says_failed_at_once_and_tries_again(node: CcNode) -> None:
    busy = node.addresses[1]
    manager = node.manager(FAIL)
    with node.kernel.start_vm(busy):
        node.want("off")
        result = manager.round()
        assert (result.ready, result.retry) == (False, True)
        assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("failed", "")
        assert node.api.annotations[labels.MESSAGE] == f"in use by a virtual machine: {busy}"
    assert manager.round().ready
    node.assert_all_in("off")
    node.assert_says("off")


# --- what was verified before


def test_a_restart_with_busy_devices_and_matching_entries_changes_no_label(node: CcNode) -> None:
    before = patches(node)
    with node.kernel.start_vm(*node.addresses):
        assert node.manager().round().ready
        node.assert_says("on")
    assert patches(node) == before


def test_a_second_round_writes_nothing_to_the_node_or_to_a_device(node: CcNode) -> None:
    manager = node.manager()
    before = patches(node)
    for _ in range(3):
        assert manager.round().ready
    assert patches(node) == before
    assert node.kernel.writes == []
    assert [len(device.knob_writes) for device in node.devices.values()] == [2] * 3


def test_an_entry_of_an_earlier_boot_is_not_believed(node: CcNode) -> None:
    forget_boot(node)
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        result = node.manager().round()
        assert not result.ready
        assert f"in use by a virtual machine: {busy}" in result.message
        assert node.api.labels[labels.READY] == ""
        assert busy not in labels.parse_verified(node.api.annotations[labels.DEVICES])
    assert node.manager().round().ready
    node.assert_says("on")


def test_an_entry_that_somebody_removed_is_not_made_up(node: CcNode) -> None:
    entries = json.loads(node.api.annotations[labels.DEVICES])
    busy = node.addresses[1]
    del entries[str(busy)]
    node.api.patch_node({"metadata": {"annotations": {labels.DEVICES: json.dumps(entries)}}})
    with node.kernel.start_vm(busy):
        assert not node.manager().round().ready
        assert node.api.labels[labels.READY] == ""


def test_field_41_after_a_crash_half_way_nothing_is_believed_of_devices_that_a_vm_opened_meanwhile(
    node: CcNode,
) -> None:
    """Staged off by us, reset by the VM: it is off now, while it was verified on before."""
    opened = node.addresses[1]

    def crash(address: PciAddress, offset: int, value: int | None) -> None:
        if all(not device.knobs[8] for device in node.devices.values()):
            raise Crash

    node.want("off")
    node.on_access.append(crash)
    with pytest.raises(Crash):
        node.manager().round()
    node.on_access.clear()
    node.want("on")
    with node.kernel.start_vm(opened):
        assert node.devices[opened].active.cc_bits == 0
        assert not node.manager().round().ready
        assert node.api.labels[labels.READY] == ""
    assert node.manager().round().ready
    node.assert_all_in("on")
    node.assert_says("on")


def test_two_gpus_of_one_group_wait_together(tmp_path: Path) -> None:
    pair = tuple(gpu(f"0000:{bus}:00.0", group=10) for bus in ("1b", "1c"))
    with CcNode(tmp_path, hardware=pair, labels={labels.MODE: "off"}) as node:
        with node.kernel.start_vm(node.addresses[0]):
            node.want("on")
            assert "in use by a virtual machine: 0000:1b:00.0, 0000:1c:00.0" in node.manager().round().message
        assert node.manager().round().ready
        node.assert_all_in("on")


def test_an_unused_device_is_changed_although_one_that_needs_no_change_is_in_use(node: CcNode) -> None:
    drifted, busy, _ = node.addresses
    node.devices[drifted].knobs.update({8: 0, 10: 0})
    with node.kernel.start_vm(busy):
        manager = RunningManager(node, interval_s=0.1)
        with manager:
            until(lambda: node.devices[drifted].knobs[8] == 1)
            node.api.wait_until(lambda: node.api.labels[labels.READY] == "true")
        assert writes_to(node, busy) == []
    node.assert_all_in("on")
