"""Devices that are not as they were left: in another mode than was published, or gone from the bus."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.settings import ClusterSettings, Drift
from nodelib.event_reasons import EventReason
from tests.cc_manager.running import RunningManager
from tests.cc_manager.simulated import CcNode, Crash
from tests.cc_manager.workloads import add_operands, operand_labels
from tests.fakes.parts import gpu, nvswitch

REPORT = ClusterSettings(drift=Drift.REPORT)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Verified on and published so."""
    with CcNode(tmp_path, gpus=2, labels={labels.MODE: "on"}) as node:
        assert node.manager().round().ready
        add_operands(node)
        yield node


def let_drift(node: CcNode, number: int = 0) -> str:
    """Somebody else puts one device into mode off; its address."""
    address = node.addresses[number]
    node.devices[address].knobs.update({8: 0, 10: 0})
    node.devices[address].reset()
    node.time.sleep(1.0)
    return str(address)


def test_a_drifted_device_is_mended_and_the_event_names_it(node: CcNode) -> None:
    told: list[tuple[str, str]] = []

    def tell(reason: EventReason, message: str) -> None:
        told.append((reason.name, message))

    address = let_drift(node)
    assert node.manager(tell=tell).round().ready
    node.assert_all_in("on")
    assert ("CcModeDrifted", f"{address} is in mode off") in told
    assert node.resets()[-1] == address
    assert set(operand_labels(node).values()) == {"true"}


def test_drift_is_found_by_the_timer(node: CcNode) -> None:
    with RunningManager(node, interval_s=0.1):
        said = len(node.api.history_of_labels(labels.READY))
        let_drift(node)
        node.api.wait_until(lambda: node.api.history_of_labels(labels.READY)[said:] == ["", "true"])
    node.assert_all_in("on")


def test_with_report_a_drifted_device_is_told_and_left(node: CcNode) -> None:
    manager = node.manager(cluster=REPORT)
    address = let_drift(node)
    for _ in range(2):
        result = manager.round()
        assert (result.ready, result.message) == (False, f"drift: {address} is in mode off")
    assert node.resets().count(address) == 1, "the one from the first change"
    assert node.api.annotations[labels.MESSAGE] == f"drift: {address} is in mode off"
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("on", "")
    assert json.loads(node.api.annotations[labels.DEVICES])[address]["mode"] == "off"
    assert not (node.node.host.root / "run/nvidia/validations/.cc-manager-ctr-ready").exists()
    before = len(node.api.history)
    manager.round()
    assert len(node.api.history) == before


def test_with_report_staged_knobs_are_told_and_left_too(node: CcNode) -> None:
    address = node.addresses[0]
    node.devices[address].knobs[8] = 0
    result = node.manager(cluster=REPORT).round()
    assert result.message == f"drift: {address} is in mode on and the next reset will put off in force"
    assert node.devices[address].knobs[8] == 0
    assert node.api.labels[labels.READY] == ""


def test_with_report_drift_that_ends_by_itself_makes_the_node_ready_again(node: CcNode) -> None:
    manager = node.manager(cluster=REPORT)
    address = node.addresses[0]
    node.devices[address].knobs[8] = 0
    assert not manager.round().ready
    node.devices[address].knobs[8] = 1
    assert manager.round().ready
    node.assert_says("on")


def test_with_report_another_label_is_followed_all_the_same(node: CcNode) -> None:
    let_drift(node)
    manager = node.manager(cluster=REPORT)
    assert not manager.round().ready
    node.want("off")
    assert manager.round().ready
    node.assert_says("off")


def test_with_report_a_change_that_was_cut_short_is_finished_although_the_label_went_back(node: CcNode) -> None:
    """It is no drift: we did it ourselves."""

    def crash(address: object, offset: int, value: int | None) -> None:
        if all(device.knobs[8] == 0 for device in node.devices.values()):
            raise Crash

    node.on_access.append(crash)
    node.want("off")
    with pytest.raises(Crash):
        node.manager(cluster=REPORT).round()
    node.on_access.clear()
    node.want("on")
    assert node.manager(cluster=REPORT).round().ready
    node.assert_all_in("on")
    node.assert_says("on")
    assert set(operand_labels(node).values()) == {"true"}


# --- gone from the bus


def test_field_2_a_gpu_that_left_the_bus_is_told_and_the_node_is_not_ready_until_it_is_back(node: CcNode) -> None:
    told: list[str] = []

    def tell(reason: EventReason, message: str) -> None:
        told.append(reason.name)

    lost, stays = node.addresses
    manager = node.manager(tell=tell)
    node.kernel.unplug(lost)
    for _ in range(2):
        result = manager.round()
        assert not result.ready
        assert f"{lost}: it was there since the node booted and is on the bus no more" in result.message
        assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("failed", "")
    assert json.loads(node.api.annotations[labels.DEVICES])[str(lost)]["reason"] == "it left the bus"
    assert json.loads(node.api.annotations[labels.DEVICES])[str(stays)]["mode"] == "on"
    assert told.count("GpuLeftBus") == 1
    node.devices[lost].gone = False
    node.kernel.plug_back(lost)
    assert manager.round().ready
    node.assert_says("on")


def test_a_restart_remembers_a_gpu_that_left_the_bus_but_not_a_reboot(node: CcNode) -> None:
    node.kernel.unplug(node.addresses[0])
    assert not node.manager().round().ready
    assert "left the bus" in node.api.annotations[labels.DEVICES]
    path = node.node.host.root / "proc/sys/kernel/random/boot_id"
    path.chmod(0o644)
    path.write_text("another-boot\n")
    assert node.manager().round().ready
    assert node.api.annotations[labels.MESSAGE] == "1 device verified in mode on"


def test_while_one_gpu_is_gone_the_label_changes_no_other(node: CcNode) -> None:
    lost, stays = node.addresses
    node.kernel.unplug(lost)
    node.want("off")
    assert not node.manager().round().ready
    assert node.devices[stays].active.cc_bits == 1


def test_a_gpu_that_leaves_the_bus_in_the_middle_of_a_change_is_not_forgotten(node: CcNode) -> None:
    lost = node.addresses[0]

    def unplug(address: object, offset: int, value: int | None) -> None:
        if address == lost and node.devices[lost].knobs[8] == 0:
            node.on_access.clear()
            node.kernel.unplug(lost)

    node.on_access.append(unplug)
    node.want("off")
    manager = node.manager()
    assert not manager.round().ready
    assert not manager.round().ready, "the others alone would be fine"
    assert str(lost) in node.api.annotations[labels.MESSAGE]
    assert node.api.labels[labels.READY] == ""


def test_all_gpus_gone_is_not_no_gpu(node: CcNode) -> None:
    for address in node.addresses:
        node.kernel.unplug(address)
    result = node.manager().round()
    assert "is on the bus no more" in result.message
    assert node.api.labels[labels.STATE] == "failed"


def test_staged_knobs_are_put_back_only_after_the_node_is_ready_for_nobody(node: CcNode) -> None:
    """Another device is in use, so that no change can be begun."""
    left, busy = node.addresses
    back = {"before": "never", "after": "never"}

    def note(address: object, offset: int, value: int | None) -> None:
        staged = "before" if node.devices[left].knobs[8] == 0 else "after"
        back[staged] = node.api.labels[labels.READY]

    node.want("off")
    node.devices[left].knobs[8] = 0
    with node.kernel.start_vm(busy):
        node.on_access.append(note)
        node.manager().round()
        node.on_access.clear()
        assert back == {"before": "", "after": ""}, "the last access before the knob was put back, and the first after"
        node.want("on")
        assert node.manager().round().ready
    node.assert_says("on")


def test_field_41_a_decoupler_left_for_another_mode_is_put_back_although_no_mode_bit_tells(node: CcNode) -> None:
    """A change to off was cut short after its first write, and the label went back: the next VM would have had it."""
    device = node.devices[node.addresses[0]]
    device.knobs.update({10: 0})
    before = node.resets()
    assert node.manager().round().ready
    assert device.knobs[10] == 2
    assert node.resets() == before
    node.assert_all_in("on")


def test_with_report_a_decoupler_left_for_another_mode_is_told(node: CcNode) -> None:
    node.devices[node.addresses[0]].knobs.update({10: 0})
    result = node.manager(cluster=REPORT).round()
    assert not result.ready
    assert "the next reset will put on with the BAR0 decoupler's knob at 0 in force" in result.message
    assert node.api.labels[labels.READY] == ""


def test_field_41_a_put_back_that_failed_under_a_label_that_is_no_mode_is_tried_again(node: CcNode) -> None:
    first = node.devices[node.addresses[0]]
    first.knobs.update({8: 0, 7: 0})  # `off` half staged, and only the baseboard controller may undo it
    node.manager(cluster=REPORT).round()  # which tells that a device is in no mode any more
    node.want("ON")
    result = node.manager().round()
    assert (result.ready, result.retry) == (False, True)
    assert first.knobs[8] == 0
    first.knobs.update({7: 1})
    assert not node.manager().round().retry
    assert first.knobs[8] == 1
    assert "is not a confidential-computing mode" in node.api.annotations[labels.MESSAGE]


def test_field_16_a_switch_of_a_generation_without_modes_keeps_no_operand_paused(tmp_path: Path) -> None:
    second_generation = replace(nvswitch("0000:07:00.0", group=7), device=0x1AF1)
    with CcNode(tmp_path, hardware=(gpu("0000:1b:00.0", group=1), second_generation)) as node:
        node.api.set_label("nvidia.com/gpu.deploy.vfio-manager", "paused-for-cc-mode-change")
        node.want("on")
        message = node.manager().round().message
        assert "0000:07:00.0: it is not a third-generation NVSwitch" in message
        assert "stay paused" not in message
        assert node.api.labels["nvidia.com/gpu.deploy.vfio-manager"] == "true"
