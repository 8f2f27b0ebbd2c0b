"""The daemon's rounds: from the label to the hardware and back to the labels."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.mode import CcMode
from nodelib.metrics import Metric
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import QUICK, CcNode
from tests.fakes.parts import other

READY_FILE = "run/nvidia/validations/.cc-manager-ctr-ready"
OURS = {labels.STATE, labels.READY, labels.MESSAGE, labels.DEVICES}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=2, switches=1) as node:
        yield node


def patches(node: CcNode) -> list[dict[str, dict[str, dict[str, str]]]]:
    return [json.loads(request.body) for request in node.api.requests if request.verb == "patch"]


def ready_file(node: CcNode) -> Path:
    return node.node.host.root / READY_FILE


# --- the label is followed


def test_from_off_to_on_and_back_on_the_hardware_and_on_the_node(node: CcNode) -> None:
    manager = node.manager()
    for mode in ("off", "on", "off", "devtools", "ppcie", "on"):
        node.want(mode)
        result = manager.round()
        assert result.ready
        assert result.message == f"3 devices verified in mode {mode}"
        node.assert_all_in(mode)
        node.assert_says(mode)


def test_field_26_ready_is_empty_from_before_a_change_until_after_it(node: CcNode) -> None:
    manager = node.manager()
    for mode in ("off", "on", "ppcie", "off"):
        node.want(mode)
        manager.round()
    values = node.api.history_of_labels(labels.READY)
    # `true` of on and `true` of ppcie have an empty one between them too.
    assert values == [None, "false", "", "true", "", "true", "", "false"]
    for patch in patches(node):
        metadata = patch["metadata"]
        if metadata.get("labels", {}).get(labels.READY):
            assert labels.DEVICES in metadata.get("annotations", {}), "ready comes last, with what was verified"


def test_no_device_is_changed_before_the_node_says_that_it_is_not_ready(node: CcNode) -> None:
    node.want("off")
    node.manager().round()
    said: list[str] = []

    def note(address: PciAddress, offset: int, value: int | None) -> None:
        if node.devices[address].knobs[10] or node.devices[address].knobs[8]:
            said.append(node.api.labels[labels.READY])

    node.on_access.append(note)
    node.want("on")
    node.manager().round()
    assert said
    assert set(said) == {""}


def test_what_the_node_verified_is_in_an_annotation_device_by_device(node: CcNode) -> None:
    node.want("on")
    node.manager().round()
    entries = json.loads(node.api.annotations[labels.DEVICES])
    assert {address: entry["mode"] for address, entry in entries.items()} == {
        "0000:07:00.0": "off",  # a switch has no CC mode of its own
        "0000:1b:00.0": "on",
        "0000:1c:00.0": "on",
    }
    boot_id = (node.node.host.root / "proc/sys/kernel/random/boot_id").read_text().strip()
    assert {entry["boot_id"] for entry in entries.values()} == {boot_id}
    assert all(entry["time"].endswith("Z") for entry in entries.values())


def test_while_it_changes_no_changing_device_has_a_verified_mode(node: CcNode) -> None:
    node.want("off")
    node.manager().round()
    node.want("on")
    node.manager().round()
    changing = next(
        state for state in node.api.history if state.annotations.get(labels.MESSAGE) == "changing to mode on"
    )
    entries = json.loads(changing.annotations[labels.DEVICES])
    assert {address: entry["mode"] for address, entry in entries.items()} == {
        "0000:07:00.0": "off",
        "0000:1b:00.0": "",
        "0000:1c:00.0": "",
    }


def test_a_device_that_drifted_is_found_and_mended(node: CcNode) -> None:
    node.want("on")
    manager = node.manager()
    manager.round()
    drifted = node.devices[node.addresses[1]]
    drifted.knobs.update({8: 0, 10: 0})
    drifted.reset()
    assert manager.round().ready
    node.assert_all_in("on")
    assert node.api.history_of_labels(labels.READY)[-3:] == ["true", "", "true"]
    assert node.resets()[-1] == str(node.addresses[1])


def test_field_18_the_invalid_state_is_repaired(node: CcNode) -> None:
    broken = node.devices[node.addresses[1]]
    broken.knobs.update({6: 1, 8: 0})
    broken.reset()
    node.want("off")
    assert node.manager().round().ready
    node.assert_all_in("off")


def test_sleeping_devices_are_woken_and_stay_awake(tmp_path: Path) -> None:
    with CcNode(tmp_path, awake=False) as node:
        assert {(node.host_folder(a) / "power_state").read_text() for a in node.addresses} == {"D3hot\n"}
        assert node.manager().round().ready
        assert {(node.host_folder(a) / "power_state").read_text() for a in node.addresses} == {"D0\n"}
        assert {value for path, value in node.kernel.writes if "power" in path} == {"on"}


# --- without a label, or with a wrong one


@pytest.mark.parametrize(
    ("default", "has_tee", "mode"),
    [(CcMode.ON, True, "on"), (CcMode.OFF, True, "off"), (CcMode.ON, False, "off"), (CcMode.DEVTOOLS, False, "off")],
)
def test_without_a_label_the_default_is_set_and_off_on_a_host_that_protects_nothing(
    tmp_path: Path, default: CcMode, has_tee: bool, mode: str
) -> None:
    with CcNode(tmp_path, gpus=1, has_tee=has_tee) as node:
        assert node.manager(replace(QUICK, default_mode=default)).round().ready
        node.assert_all_in(mode)
        node.assert_says(mode)
        assert labels.MODE not in node.api.labels


@pytest.mark.parametrize("text", ["ON", "yes", "x" * 63])
def test_field_30_a_label_value_that_is_no_mode_is_told_and_no_device_is_touched(node: CcNode, text: str) -> None:
    node.want(text)
    result = node.manager().round()
    assert (result.ready, result.retry) == (False, False)
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("failed", "")
    assert node.api.annotations[labels.MESSAGE] == (
        f"label nvidia.com/cc.mode: {text!r} is not a confidential-computing mode: write off, on, devtools or ppcie"
    )
    assert node.accesses == [0, 0, 0]
    assert node.kernel.writes == []


def test_field_30_a_wrong_label_after_a_good_one_leaves_the_devices_as_they_were(node: CcNode) -> None:
    manager = node.manager()
    node.want("on")
    manager.round()
    accesses = node.accesses
    node.want("On")
    assert not manager.round().ready
    assert node.accesses == accesses
    assert node.api.labels[labels.READY] == ""
    node.want("on")
    assert manager.round().ready
    node.assert_says("on")


# --- devices that cannot be changed


def test_a_device_on_the_nvidia_driver_is_told_with_what_to_do(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=2, driver="nvidia", labels={labels.MODE: "on"}) as node:
        result = node.manager().round()
        assert (result.ready, result.retry) == (False, True)
        assert node.api.labels[labels.STATE] == "failed"
        for address in node.addresses:
            remedy = f"{address}: driver nvidia holds it; bind it first: vfio-manager bind --device {address}"
            assert remedy in node.api.annotations[labels.MESSAGE]
        assert (node.accesses, node.kernel.writes) == ([0, 0], [])


def test_a_node_without_gpus_is_ready_for_nobody(tmp_path: Path) -> None:
    usb = other("0000:00:14.0", 0x8086, 0x7AE0, 0x0C0330)
    with CcNode(tmp_path, hardware=(usb,), labels={labels.MODE: "off"}) as node:
        result = node.manager().round()
        assert (result.ready, result.retry, result.message) == (False, False, "no NVIDIA GPU on this node")
        assert node.api.labels == {labels.MODE: "off", labels.READY: ""}
        assert not ready_file(node).exists()


# --- what is written to the node


def test_field_28_only_our_keys_are_patched_and_foreign_ones_are_kept(tmp_path: Path) -> None:
    foreign = {"nvidia.com/gpu.deploy.vfio-manager": "true", "zone": "a"}
    with CcNode(tmp_path, gpus=1, labels=foreign, annotations={"note": "x"}) as node:
        manager = node.manager()
        for mode in ("on", "off", "ON", None):
            node.want(mode)
            manager.round()
        assert node.api.labels.items() >= foreign.items()
        assert node.api.annotations["note"] == "x"
        written = [r for r in node.api.requests if r.verb == "patch"]
        ours = [json.loads(r.body) for r in written if r.content_type == "application/merge-patch+json"]
        shared = [json.loads(r.body) for r in written if r.content_type == "application/json-patch+json"]
        assert len(ours) + len(shared) == len(written)
        assert shared
        for operations in shared:
            assert [one["op"] for one in operations] == ["test", "add"]
            assert {one["path"] for one in operations} == {"/metadata/labels/nvidia.com~1gpu.deploy.vfio-manager"}
        for patch in ours:
            assert patch.keys() == {"metadata"}
            assert patch["metadata"].keys() <= {"labels", "annotations"}
            assert {key for part in patch["metadata"].values() for key in part} <= OURS


def test_the_second_round_reads_and_writes_nothing(node: CcNode) -> None:
    manager = node.manager()
    manager.round()
    requests, writes, knobs = (
        len(node.api.requests),
        len(node.kernel.writes),
        [len(device.knob_writes) for device in node.devices.values()],
    )
    assert manager.round().ready
    assert [request.verb for request in node.api.requests[requests:]] == ["get"]
    assert len(node.kernel.writes) == writes
    assert [len(device.knob_writes) for device in node.devices.values()] == knobs


def test_a_label_of_ours_that_somebody_changed_is_set_right(node: CcNode) -> None:
    manager = node.manager()
    manager.round()
    node.api.patch_node({"metadata": {"labels": {labels.STATE: "off", labels.READY: None}}})
    assert manager.round().ready
    node.assert_says("on")


# --- the ready file


def test_the_ready_file_is_there_while_the_mode_is_verified(node: CcNode) -> None:
    manager = node.manager()
    assert not ready_file(node).exists()
    manager.round()
    assert ready_file(node).exists()
    node.want("yes")
    manager.round()
    assert not ready_file(node).exists()
    node.want("off")
    manager.round()
    assert ready_file(node).exists()


def test_field_25_the_ready_file_is_gone_during_a_change_and_after_one_that_failed(node: CcNode) -> None:
    manager = node.manager()
    manager.round()
    during: set[bool] = set()
    node.kernel.faults.before_write = lambda path, value: during.add(ready_file(node).exists())
    node.devices[node.addresses[1]].faults.keeps_old_mode = True
    node.want("off")
    assert not manager.round().ready
    assert during == {False}
    assert not ready_file(node).exists()


def test_another_ready_file_can_be_named_or_none(node: CcNode) -> None:
    node.manager(replace(QUICK, ready_file="/run/other/ready")).round()
    assert (node.node.host.root / "run/other/ready").exists()
    node.manager(replace(QUICK, ready_file="")).round()
    assert not ready_file(node).exists()


# --- metrics


def test_field_38_a_failed_change_is_counted(node: CcNode) -> None:
    manager = node.manager()
    manager.round()
    node.devices[node.addresses[1]].faults.keeps_old_mode = True
    node.want("off")
    manager.round()
    metrics = {metric.name: metric.values for metric in manager.metrics() if isinstance(metric, Metric)}
    assert metrics["cc_manager_transitions"] == {("off",): 0, ("on",): 1, ("devtools",): 0, ("ppcie",): 0}
    failed = metrics["cc_manager_failed_transitions"]
    assert {code: count for code, count in failed.items() if count} == {("device",): 1.0}
    assert failed["in-use",] == 0, "an alert sees only what increases"
    assert metrics["cc_manager_last_failure_timestamp_seconds"].keys() == {("device",)}
    assert metrics["cc_manager_device_mode"] == {
        ("0000:07:00.0", "off"): 1.0,
        ("0000:1b:00.0", "on"): 1.0,
        ("0000:1c:00.0", "off"): 1.0,
    }
