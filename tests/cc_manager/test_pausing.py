"""Operands around a change of mode on the whole node: paused, seen gone, run again, whatever happens in between."""

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.clock import Clock
from cc_manager.cluster import labels
from cc_manager.cluster.operands import OPERANDS, PAUSED, key_of
from cc_manager.settings import ClusterSettings
from nodelib.kube import ApiError
from nodelib.pci import PciAddress
from nodelib.wakeups import Wakeups
from tests.cc_manager.running import RunningManager
from tests.cc_manager.simulated import QUICK, CcNode, Crash
from tests.cc_manager.workloads import add_operands, end_pods, operand_labels, operand_pods
from tests.fakes.gpu import FspError
from tests.fakes.kube.faults import Fault, Refuse
from tests.fakes.kube.rest import Target
from tests.fakes.kube.roles import OPERATOR_NAMESPACE, UNDER_OPERATOR_ROLE
from tests.fakes.polling import until

ALL_RUN = dict.fromkeys(OPERANDS, "true")
SHORT = ClusterSettings(operand_timeout_s=4.0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Verified off and published so, with all operands running."""
    with CcNode(tmp_path, gpus=2, labels={labels.MODE: "off"}) as node:
        assert node.manager().round().ready
        add_operands(node)
        assert operand_pods(node) == sorted(OPERANDS)
        yield node


def during_resets(node: CcNode, look: Callable[[], object]) -> list[object]:
    """What *look* gives at each reset."""
    seen: list[object] = []

    def note(path: str, value: str) -> None:
        if path.endswith("/reset"):
            seen.append(look())

    node.kernel.faults.before_write = note
    return seen


def test_all_seven_operands_are_paused_and_gone_before_a_device_is_reset_and_run_again_after_it(node: CcNode) -> None:
    seen = during_resets(node, lambda: (set(operand_labels(node).values()), operand_pods(node)))
    node.want("on")
    assert node.manager().round().ready
    assert seen == [({PAUSED}, [])] * 2
    assert operand_labels(node) == ALL_RUN
    assert operand_pods(node) == sorted(OPERANDS)
    node.assert_says("on")


def test_operands_run_again_before_the_node_says_that_it_is_ready(node: CcNode) -> None:
    node.want("on")
    node.manager().round()
    for state in node.api.history:
        if state.labels.get(labels.READY) == "true":
            assert not any(PAUSED in value for value in state.labels.values())


def test_what_does_not_run_is_not_started_and_every_value_comes_back(tmp_path: Path) -> None:
    values = {
        "vfio-manager": "true",
        "kata-manager": "false",
        "sandbox-validator": "",
        "sandbox-device-plugin": "custom",
        "vgpu-manager": "paused-for-driver-upgrade",
    }
    given = {key_of(operand): value for operand, value in values.items()} | {key_of("cc-manager"): "true"}
    with CcNode(tmp_path, gpus=1, labels={labels.MODE: "on", **given}) as node:
        seen = during_resets(node, lambda: operand_labels(node))
        assert node.manager().round().ready
        assert seen == [
            values | {"vfio-manager": PAUSED, "sandbox-device-plugin": f"custom_{PAUSED}"},
        ]
        assert operand_labels(node) == values
        assert {state.labels.get(key_of("cc-manager")) for state in node.api.history} == {"true"}
        assert all(key_of("vgpu-device-manager") not in state.labels for state in node.api.history)


def test_switched_off_nothing_is_paused_but_a_pause_that_is_there_is_undone(node: CcNode) -> None:
    node.api.set_label(key_of("kata-manager"), PAUSED)
    seen = during_resets(node, lambda: operand_labels(node)["vfio-manager"])
    node.want("on")
    assert node.manager(cluster=ClusterSettings(pause_operands=False)).round().ready
    assert seen == ["true", "true"]
    assert operand_labels(node) == ALL_RUN


def test_a_round_in_which_nothing_changes_pauses_nothing(node: CcNode) -> None:
    before = len(node.api.history)
    assert node.manager().round().ready
    assert len(node.api.history) == before


def test_knobs_that_are_only_put_back_pause_nobody(node: CcNode) -> None:
    node.devices[node.addresses[0]].knobs[8] = 1
    assert node.manager().round().ready
    node.assert_all_in("off")
    assert all(PAUSED not in "".join(state.labels.values()) for state in node.api.history)


# --- waiting for their pods


def test_pods_that_take_their_time_are_waited_for_by_a_watch(node: CcNode) -> None:
    node.api.cluster.pods_linger = True

    def end_when_watched() -> None:
        node.api.wait_until(lambda: any((r.verb, r.resource) == ("watch", "pods") for r in node.api.requests))
        end_pods(node)

    ending = threading.Thread(target=end_when_watched)
    seen = during_resets(node, lambda: operand_pods(node))
    node.want("on")
    ending.start()
    assert node.manager().round().ready
    ending.join()
    assert seen == [[], []]


def test_field_31_pods_that_do_not_end_in_time_fail_the_change_and_no_device_is_touched(node: CcNode) -> None:
    node.api.cluster.pods_linger = True

    def end_most(state: object) -> None:
        if PAUSED in operand_labels(node).values():
            end_pods(node, but="kata-sandbox-device-plugin")

    node.api.on_write.append(end_most)
    knobs = [dict(device.knobs) for device in node.devices.values()]
    node.want("on")
    result = node.manager(cluster=ClusterSettings(operand_timeout_s=2.0), clock=Clock()).round()
    assert (result.ready, result.retry) == (False, True)
    assert re.fullmatch(
        r"operands did not end within 2 s: gpu-operator/nvidia-kata-sandbox-device-plugin-\d+", result.message
    )
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("failed", "")
    assert operand_labels(node) == ALL_RUN
    assert node.resets() == []
    assert [dict(device.knobs) for device in node.devices.values()] == knobs


def test_without_the_right_to_see_the_pods_nothing_is_paused_and_the_reason_is_told(node: CcNode) -> None:
    node.api.allow -= {("list", "pods")}
    node.want("on")
    result = node.manager().round()
    assert not result.ready
    assert 'cannot list resource "pods" in namespace "gpu-operator"; allow `list` on `pods` there' in result.message
    assert operand_labels(node) == ALL_RUN
    assert all(PAUSED not in state.labels.values() for state in node.api.history)
    node.assert_all_in("off")


def test_with_the_rights_that_an_operator_gives_the_change_is_made(node: CcNode) -> None:
    node.api.allow.clear()
    node.api.allow |= UNDER_OPERATOR_ROLE
    node.want("on")
    assert node.manager().round().ready
    assert operand_labels(node) == ALL_RUN
    node.assert_says("on")


def test_an_operand_whose_label_cannot_be_paused_fails_the_change_before_anything_is_paused(node: CcNode) -> None:
    node.api.set_label(key_of("vfio-manager"), "v" * 38)
    node.want("on")
    result = node.manager().round()
    assert "the value of nvidia.com/gpu.deploy.vfio-manager has more than 37 characters" in result.message
    assert operand_labels(node) == ALL_RUN | {"vfio-manager": "v" * 38}
    node.assert_all_in("off")


# --- labels that others write at the same time


def test_field_28_a_deploy_label_that_changes_under_the_pause_is_read_and_planned_again(node: CcNode) -> None:
    """The operator switches an operand off between our reading and our writing."""

    def switch_off(state: object) -> None:
        node.api.on_write.remove(switch_off)
        node.api.set_label(key_of("kata-manager"), "false")

    node.want("on")
    node.api.on_write.append(switch_off)
    assert node.manager().round().ready
    assert operand_labels(node) == ALL_RUN | {"kata-manager": "false"}
    refused = [r.status for r in node.api.requests if r.content_type == "application/json-patch+json"]
    assert refused.count(422) <= 1


def test_a_label_that_somebody_else_changes_all_the_time_is_given_up_for_this_round(node: CcNode) -> None:
    values = itertools.cycle(("a", "b"))

    def change_first(target: Target) -> None:
        if target.verb == "patch":
            node.api.set_label(key_of("kata-manager"), next(values))

    node.want("on")
    node.api.faults.choose = change_first
    with pytest.raises(ApiError, match="labels of node node-1 are changed by somebody else all the time"):
        node.manager().round()
    assert PAUSED not in "".join(operand_labels(node).values())
    assert node.resets() == []
    node.api.faults.choose = None
    assert node.manager().round().ready
    node.assert_says("on")


# --- what happens in between


def test_field_16_operands_that_a_crash_left_paused_run_again_at_the_next_start(node: CcNode) -> None:
    def crash(address: PciAddress, offset: int, value: int | None) -> None:
        if node.devices[address].knobs[8]:
            raise Crash

    node.on_access.append(crash)
    node.want("on")
    with pytest.raises(Crash):
        node.manager().round()
    assert set(operand_labels(node).values()) == {PAUSED}
    node.on_access.clear()
    assert node.manager().round().ready
    assert operand_labels(node) == ALL_RUN
    node.assert_says("on")


@pytest.mark.parametrize("mode", ["off", "yes", None])
def test_field_16_they_run_again_whatever_the_label_says_then(node: CcNode, mode: str | None) -> None:
    for operand in OPERANDS:
        node.api.set_label(key_of(operand), PAUSED)
    node.want(mode)
    node.manager().round()
    assert operand_labels(node) == ALL_RUN


def test_field_41_a_failed_change_puts_knobs_back_before_operands_run_again(node: CcNode) -> None:
    node.devices[node.addresses[1]].faults.keeps_old_mode = True
    node.want("on")

    def check(state: object) -> None:
        if PAUSED not in operand_labels(node).values():
            node.assert_none_in_waiting()

    node.api.on_write.append(check)
    assert not node.manager().round().ready
    assert operand_labels(node) == ALL_RUN
    assert node.api.labels[labels.STATE] == "failed"


def test_field_41_knobs_that_cannot_be_put_back_keep_operands_paused_and_the_device_is_named(node: CcNode) -> None:
    stuck, refusing = node.addresses
    node.devices[refusing].faults.fsp_errors = (FspError(0x123, knob=8, is_write=True),)

    def refuse_writes_once_staged(address: PciAddress, offset: int, value: int | None) -> None:
        if node.devices[stuck].knobs[8]:
            node.devices[stuck].faults.fsp_errors = (FspError(0x55, is_write=True),)

    node.on_access.append(refuse_writes_once_staged)
    node.want("on")
    assert not node.manager().round().ready
    assert set(operand_labels(node).values()) == {PAUSED}
    message = node.api.annotations[labels.MESSAGE]
    assert message.endswith(f"operands stay paused, because the next reset may change the mode of {stuck}")
    assert node.api.labels[labels.READY] == ""
    # It can be written again: the next attempt, or another label, sets all right.
    node.on_access.clear()
    node.devices[stuck].faults.fsp_errors = ()
    node.devices[refusing].faults.fsp_errors = ()
    node.want("off")
    assert node.manager().round().ready
    assert operand_labels(node) == ALL_RUN
    node.assert_says("off")


def test_a_stop_while_pods_are_waited_for_lets_operands_run_again_and_says_nothing_untrue(node: CcNode) -> None:
    wakeups = Wakeups()
    node.api.cluster.pods_linger = True
    node.want("on")
    manager = node.manager(wakeups=wakeups, cluster=replace(SHORT, operand_timeout_s=1000.0))
    results = []
    thread = threading.Thread(target=lambda: results.append(manager.round()))
    thread.start()
    until(lambda: set(operand_labels(node).values()) == {PAUSED})
    wakeups.request_stop()
    thread.join()
    assert "stopped on the way to mode on" in results[0].message
    assert operand_labels(node) == ALL_RUN
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("off", "")
    node.assert_all_in("off")


# --- claiming


def test_absent_labels_of_our_own_daemon_sets_are_claimed_once(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=1, labels={labels.MODE: "off", key_of("kata-manager"): "false"}) as node:
        for operand in ("vfio-manager", "kata-manager", "kata-sandbox-device-plugin"):
            node.api.cluster.add_daemon_set(operand, OPERATOR_NAMESPACE, selects={key_of(operand): "true"})
        node.api.cluster.add_daemon_set("foreign", "elsewhere", selects={key_of("vgpu-manager"): "true"})
        manager = node.manager(cluster=ClusterSettings(claim_operands=True))
        assert manager.round().ready
        claimed = {"vfio-manager": "true", "kata-manager": "false", "kata-sandbox-device-plugin": "true"}
        assert operand_labels(node) == claimed
        assert operand_pods(node) == ["kata-sandbox-device-plugin", "vfio-manager"]
        node.api.set_label(key_of("vfio-manager"), None)
        assert manager.round().ready
        assert "vfio-manager" not in operand_labels(node), "an administrator who takes it away means it"


def test_without_being_told_nothing_is_claimed(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=1) as node:
        node.api.cluster.add_daemon_set("vfio", OPERATOR_NAMESPACE, selects={key_of("vfio-manager"): "true"})
        assert node.manager().round().ready
        assert operand_labels(node) == {}


def test_claiming_waits_for_an_api_server_that_answers(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=1, labels={"zone": "a"}) as node:
        node.api.cluster.add_daemon_set("vfio", OPERATOR_NAMESPACE, selects={key_of("vfio-manager"): "true"})
        manager = node.manager(QUICK, cluster=ClusterSettings(claim_operands=True))
        node.api.faults.refuse(503, verb="list", resource="daemonsets")
        with pytest.raises(ApiError, match="503"):
            manager.round()
        assert manager.round().ready
        assert operand_labels(node) == {"vfio-manager": "true"}


# --- what is known before anything is paused


@pytest.mark.parametrize("fault", ["the host may not", "no such knob", "silent"])
def test_field_30_a_device_that_would_refuse_is_asked_before_anybody_is_paused(node: CcNode, fault: str) -> None:
    device = node.devices[node.addresses[1]]
    match fault:
        case "the host may not":
            device.knobs[7] = 0
        case "no such knob":
            device.faults.fsp_errors = (FspError(0x1E3, knob=2),)
        case _:
            device.faults.fsp_errors = (FspError(0x77, knob=34),)
    node.want("on")
    result = node.manager().round()
    assert not result.ready
    assert result.message.startswith(f"{node.addresses[1]}: could not ")
    assert all(PAUSED not in "".join(state.labels.values()) for state in node.api.history)
    assert node.resets() == []
    assert [one.knobs[8] for one in node.devices.values()] == [0, 0]
    assert node.api.labels[labels.STATE] == "failed"


# --- attempts that fail again and again


def pauses(node: CcNode) -> int:
    """How often operands were paused."""
    values = node.api.history_of_labels(key_of("vfio-manager"))
    return values.count(PAUSED)


def test_an_attempt_that_paused_operands_and_failed_is_not_made_again_at_once(node: CcNode) -> None:
    node.devices[node.addresses[0]].faults.keeps_old_mode = True
    node.want("on")
    manager = node.manager()
    first = manager.round()
    assert (first.retry, pauses(node)) == (True, 1)
    assert [manager.round() for _ in range(3)] == [first] * 3
    assert pauses(node) == 1
    for attempt, seconds in enumerate((60.0, 120.0, 240.0), 2):
        node.time.sleep(seconds)
        assert manager.round().message.startswith(f"attempt {attempt}: ")
        assert not manager.round().ready
        assert pauses(node) == attempt
    node.devices[node.addresses[0]].faults.keeps_old_mode = False
    assert not manager.round().ready
    node.time.sleep(480.0)
    assert manager.round().ready
    node.assert_says("on")


def test_another_mode_is_tried_at_once(node: CcNode) -> None:
    node.devices[node.addresses[0]].faults.keeps_old_mode = True
    node.want("on")
    manager = node.manager()
    assert not manager.round().ready
    node.devices[node.addresses[0]].faults.keeps_old_mode = False
    node.want("devtools")
    assert manager.round().ready
    node.assert_says("devtools")


def test_field_29_a_touched_label_ends_the_wait(node: CcNode) -> None:
    """Time stands still in between: without the touch nothing would ever be tried again."""
    node.devices[node.addresses[0]].faults.keeps_old_mode = True
    with RunningManager(node, interval_s=0.05):
        node.want("on")
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == labels.FAILED)
        node.devices[node.addresses[0]].faults.keeps_old_mode = False
        node.want(None)  # the default is the same mode: touched, and nothing else
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "on")
    node.assert_says("on")


def test_a_failure_that_could_not_be_published_is_published_by_the_next_round_and_rests_only_then(node: CcNode) -> None:
    node.devices[node.addresses[0]].faults.keeps_old_mode = True
    node.want("on")
    manager = node.manager()
    patches = itertools.count(1)

    def refuse_the_last(target: Target) -> Fault | None:
        # changing, pause, restore, failed
        return Refuse(503) if target.verb == "patch" and next(patches) == 4 else None

    node.api.faults.choose = refuse_the_last
    with pytest.raises(ApiError, match="503"):
        manager.round()
    assert node.api.annotations[labels.MESSAGE] == "changing to mode on"
    assert not manager.round().ready
    assert node.api.labels[labels.STATE] == labels.FAILED
    paused = pauses(node)
    manager.round()
    assert pauses(node) == paused


def test_operands_that_stayed_paused_are_not_left_so_for_the_length_of_a_rest(node: CcNode) -> None:
    stuck, refusing = node.addresses
    node.devices[refusing].faults.fsp_errors = (FspError(0x123, knob=8, is_write=True),)

    def refuse_writes_once_staged(address: PciAddress, offset: int, value: int | None) -> None:
        if node.devices[stuck].knobs[8]:
            node.devices[stuck].faults.fsp_errors = (FspError(0x55, is_write=True),)

    node.on_access.append(refuse_writes_once_staged)
    node.want("on")
    manager = node.manager()
    assert not manager.round().ready
    assert set(operand_labels(node).values()) == {PAUSED}
    node.on_access.clear()
    node.devices[stuck].faults.fsp_errors = ()
    manager.round()
    assert operand_labels(node) == ALL_RUN
    node.assert_none_in_waiting()
