"""Pods that hold devices: found by what the kubelet gave them, waited for, or evicted within their budgets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.cluster.operands import PAUSED
from cc_manager.reconcile import Reconciler
from cc_manager.settings import ClusterSettings, WhenBusy
from nodelib.kube import ApiError
from nodelib.pci import PciAddress
from nodelib.pod_resources import KubeletUnreachable
from tests.cc_manager.simulated import QUICK, CcNode
from tests.cc_manager.workloads import NAMESPACE, add_operands, operand_labels
from tests.fakes.kube.cluster import PODS
from tests.fakes.kube.patch import JsonObject, text
from tests.fakes.kube.store import Selector
from tests.fakes.parts import gpu, in_group, other

EVICT = replace(QUICK, when_busy=WhenBusy.EVICT)
FAIL = replace(QUICK, when_busy=WhenBusy.FAIL)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Verified off and published so, with operands running."""
    with CcNode(tmp_path, gpus=3, labels={labels.MODE: "off"}) as node:
        assert node.manager().round().ready
        add_operands(node)
        yield node


def evictions(node: CcNode) -> list[str]:
    return [request.name for request in node.api.requests if request.resource == "pods/eviction"]


def never_paused(node: CcNode) -> bool:
    return all(PAUSED not in "".join(state.labels.values()) for state in node.api.history)


# --- wait and fail


def test_field_42_a_pod_that_was_given_a_device_and_has_not_opened_it_is_waited_for(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    result = node.manager().round()
    assert (result.ready, result.retry) == (False, True)
    assert node.api.annotations[labels.MESSAGE] == f"waiting to change to mode on: held by pod {NAMESPACE}/vm"
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("off", "")
    assert never_paused(node)
    node.api.remove_pod("vm", NAMESPACE)
    assert node.manager().round().ready
    node.assert_says("on")


def test_the_vm_and_the_pod_behind_it_are_both_named(node: CcNode) -> None:
    busy = node.addresses[0]
    node.pods.admit("vm", busy)
    node.pods.start_vm("vm", busy)
    node.want("on")
    message = node.manager().round().message
    assert message == f"waiting to change to mode on: in use by a virtual machine: {busy}; held by pod {NAMESPACE}/vm"
    node.pods.end_all()


def test_a_waiting_round_writes_the_node_only_once(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    manager = node.manager()
    manager.round()
    before = len(node.api.history)
    manager.round()
    assert len(node.api.history) == before


def test_the_policy_fail_fails_for_a_pod_too(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    assert not node.manager(FAIL).round().ready
    assert node.api.labels[labels.STATE] == "failed"
    assert node.api.annotations[labels.MESSAGE] == f"held by pod {NAMESPACE}/vm"
    assert never_paused(node)


def test_pods_without_devices_of_ours_and_those_that_have_ended_are_in_nobodys_way(node: CcNode) -> None:
    node.pods.admit("web", node.addresses[0], resource="example.com/nic")
    node.pods.admit("done", node.addresses[1])
    set_phase(node, "done", "Succeeded")
    node.want("on")
    assert node.manager().round().ready


def test_field_42_a_pod_that_the_api_server_does_not_know_counts_as_alive(node: CcNode) -> None:
    """Deleted by force: the kubelet still ends it."""
    node.pods.admit("forced", node.addresses[0], in_api=False)
    node.want("on")
    assert "held by pod tenant/forced" in node.manager().round().message


def test_a_pod_with_another_device_than_those_that_change_is_left_alone(node: CcNode) -> None:
    drifted, busy, _ = node.addresses
    node.pods.admit("vm", busy)
    node.devices[drifted].knobs[8] = 1
    node.devices[drifted].reset()
    assert node.manager(EVICT).round().ready
    assert evictions(node) == []
    node.assert_all_in("off")
    node.pods.end_all()


def test_an_id_that_is_no_group_of_the_node_counts_as_held(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.pods.rename_ids("vm", "GPU-uuid")
    node.want("on")
    assert "held by pod tenant/vm" in node.manager().round().message


def test_a_pci_address_of_something_else_is_in_nobodys_way(node: CcNode) -> None:
    """NVIDIA's network operator gives out virtual functions of network cards as nvidia.com/hostdev, by address."""
    node.pods.admit("router", node.addresses[0], resource="nvidia.com/hostdev")
    node.pods.rename_ids("router", "0000:3b:00.2")
    node.want("on")
    assert node.manager(EVICT).round().ready
    assert evictions(node) == []


@pytest.mark.parametrize("function", [0, 1])
def test_a_pci_address_of_a_device_or_of_its_group_is_that_device(tmp_path: Path, function: int) -> None:
    group = in_group(10, gpu("0000:1b:00.0"), other("0000:1b:00.1", 0x10DE, 0x22BA, 0x040300))
    with CcNode(tmp_path, hardware=tuple(group), labels={labels.MODE: "off"}) as node:
        assert node.manager().round().ready
        node.pods.admit("vm", node.addresses[0])
        node.pods.rename_ids("vm", f"0000:1B:00.{function}")
        node.want("on")
        assert node.manager().round().message == f"waiting to change to mode on: held by pod {NAMESPACE}/vm"
        assert node.manager(EVICT).round().ready
        assert evictions(node) == ["vm"]


def test_a_kubelet_that_does_not_answer_fails_the_change_before_anything_is_paused(node: CcNode) -> None:
    node.pods.error = KubeletUnreachable("the kubelet does not answer")
    node.want("on")
    result = node.manager().round()
    assert result.message == "nobody can tell which pods have the devices: the kubelet does not answer"
    assert node.api.labels[labels.STATE] == "failed"
    assert never_paused(node)
    node.pods.error = None
    assert node.manager().round().ready


def test_the_kubelet_is_not_asked_where_nothing_is_to_be_changed(node: CcNode) -> None:
    asked = node.pods.asked
    assert node.manager().round().ready
    assert node.pods.asked == asked


def test_field_42_a_pod_admitted_between_the_first_look_and_the_pause_is_found_before_any_reset(node: CcNode) -> None:
    def admit(state: object) -> None:
        if PAUSED in operand_labels(node).values() and not node.pods.list():
            node.pods.admit("late", node.addresses[0])

    node.want("on")
    node.api.on_write.append(admit)
    result = node.manager(cluster=ClusterSettings(operand_timeout_s=5.0)).round()
    node.api.on_write.remove(admit)
    assert result.message == "waiting to change to mode on: held by pod tenant/late"
    assert node.resets() == []
    assert set(operand_labels(node).values()) == {"true"}
    node.assert_all_in("off")


# --- evict


def test_field_24_pods_that_hold_devices_are_evicted_and_the_change_is_made(node: CcNode) -> None:
    node.pods.admit("vm", *node.addresses[:2])
    node.pods.start_vm("vm", *node.addresses[:2])
    node.pods.admit("starting", node.addresses[2])
    node.api.add_pod("bystander", NAMESPACE, {})
    node.want("on")
    assert node.manager(EVICT).round().ready
    assert sorted(evictions(node)) == ["starting", "vm"]
    assert pods_in(node, NAMESPACE) == ["bystander"]
    node.assert_says("on")
    values = [state.labels.get(labels.READY) for state in node.api.history]
    assert values[values.index("") :].count("false") == 0


def test_ready_is_empty_before_the_first_pod_is_evicted(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    seen: list[str] = []
    node.api.cluster.on_pod_end.append(lambda namespace, name: seen.append(node.api.labels[labels.READY]))
    node.want("on")
    assert node.manager(EVICT).round().ready
    assert set(seen) == {""}


def test_a_budget_that_forbids_it_is_respected_told_and_tried_again(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    budget = node.api.add_budget(NAMESPACE, {"app": "vm"}, allowed=0)
    node.want("on")
    manager = node.manager(EVICT)
    result = manager.round()
    assert (result.ready, result.retry) == (False, True)
    assert "held by pod tenant/vm" in result.message
    assert "Cannot evict pod as it would violate the pod's disruption budget" in result.message
    assert node.api.labels[labels.STATE] == "off"
    assert never_paused(node)
    budget.allowed = 1
    assert manager.round().ready
    node.assert_says("on")


def test_field_31_an_eviction_that_takes_too_long_fails_the_change_and_does_not_go_on(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.api.add_budget(NAMESPACE, {"app": "vm"}, allowed=0)
    node.want("on")
    manager = node.manager(EVICT, cluster=ClusterSettings(evict_timeout_s=30.0))
    states = [(manager.round().retry, node.api.labels[labels.STATE]) for _ in range(2)]
    assert states == [(True, "off"), (True, "failed")]
    assert node.api.annotations[labels.MESSAGE].startswith("eviction did not make room in time: held by pod tenant/vm")
    assert node.resets() == []
    assert never_paused(node)
    assert set(operand_labels(node).values()) == {"true"}


def test_a_pod_that_takes_its_time_to_end_is_waited_for(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.api.cluster.pods_linger = True

    def end() -> None:
        node.api.cluster.pods_linger = False
        node.api.cluster.end_pod(NAMESPACE, "vm")

    node.time.call_at(node.time.now() + 7.0, end)
    node.want("on")
    assert node.manager(EVICT).round().ready
    node.assert_says("on")


def test_a_label_that_returns_while_pods_are_evicted_is_seen_in_the_next_round(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.api.add_budget(NAMESPACE, {"app": "vm"}, allowed=0)
    node.want("on")
    manager = node.manager(EVICT)
    assert not manager.round().ready
    node.want("off")
    assert manager.round().ready
    node.assert_says("off")


def test_without_the_right_to_evict_it_waits_and_says_so_once(node: CcNode, caplog: pytest.LogCaptureFixture) -> None:
    node.api.allow -= {("create", "pods/eviction")}
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    manager = node.manager(EVICT, cluster=ClusterSettings(evict_timeout_s=5.0))
    for _ in range(3):
        assert manager.round().message.startswith("waiting to change to mode on: held by pod tenant/vm")
    warnings = [r.getMessage() for r in caplog.records if "no pod is evicted" in r.getMessage()]
    assert len(warnings) == 1
    assert 'cannot create resource "pods/eviction"' in warnings[0]
    assert len(evictions(node)) == 1


def test_a_pod_that_the_api_server_does_not_confirm_is_not_evicted(node: CcNode) -> None:
    node.pods.admit("forced", node.addresses[0], in_api=False)
    node.want("on")
    result = node.manager(EVICT).round()
    assert "the API server does not confirm pod tenant/forced, so it is not evicted" in result.message
    assert evictions(node) == []


def test_a_pod_with_an_id_that_nobody_knows_is_waited_for_and_not_evicted(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.pods.rename_ids("vm", "GPU-uuid")
    node.pods.admit("known", node.addresses[1])
    node.pods.rename_ids("known", "GPU-uuid", "11")
    node.want("on")
    manager = node.manager(EVICT)
    assert manager.round().message == (
        "waiting to change to mode on: held by pod tenant/vm; "
        "pod tenant/vm has a device whose id says nothing here, so it is waited for and not evicted"
    )
    assert evictions(node) == ["known"]
    node.api.remove_pod("vm", NAMESPACE)
    assert manager.round().ready


def test_a_vm_that_no_pod_has_cannot_be_evicted_and_fails_in_the_end(node: CcNode) -> None:
    with node.kernel.start_vm(node.addresses[0]):
        node.want("on")
        manager = node.manager(EVICT, cluster=ClusterSettings(evict_timeout_s=10.0))
        result = manager.round()
        assert "eviction did not make room in time: in use by a virtual machine" in result.message
        node.assert_all_in("off")
    assert manager.round().ready


def test_without_the_right_to_list_pods_everywhere_the_kubelets_word_counts(
    node: CcNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.api.allow -= {("list", "pods")}
    node.api.allow |= {("list", "pods", "gpu-operator")}
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    manager = node.manager()
    for _ in range(2):
        assert "held by pod tenant/vm" in manager.round().message
    assert sum("the kubelet's word alone counts" in r.getMessage() for r in caplog.records) == 1


def test_an_api_server_that_is_away_while_pods_are_looked_up_leaves_everything_as_it_is(node: CcNode) -> None:
    node.pods.admit("vm", node.addresses[0])
    node.want("on")
    node.api.faults.refuse(503, verb="list", resource="pods")
    with pytest.raises(ApiError, match="503"):
        node.manager(EVICT).round()
    assert node.api.labels[labels.READY] == "false"
    assert evictions(node) == []


# --- nobody is evicted for a change that the firmware forbids


def test_idle_devices_are_asked_before_a_pod_is_evicted_from_another(node: CcNode) -> None:
    busy, forbidding, _ = node.addresses
    run_vm(node, "vm", busy)
    node.devices[forbidding].knobs[7] = 0
    node.want("on")
    manager = node.manager(EVICT)
    for _ in range(2):
        assert f"{forbidding}: could not set knob 8 (cc) to 1" in manager.round().message
    assert node.api.labels[labels.STATE] == "failed"
    assert evictions(node) == []
    assert never_paused(node)
    node.devices[forbidding].knobs[7] = 1
    assert manager.round().ready
    node.assert_says("on")


def test_a_refusal_that_took_an_eviction_to_hear_costs_no_other(node: CcNode) -> None:
    forbidding = refused_after_eviction(node, manager := node.manager(EVICT))
    run_vm(node, "again", forbidding)
    for _ in range(2):
        assert f"{forbidding}: could not set knob 8 (cc) to 1" in manager.round().message
    assert evictions(node) == ["vm"]
    assert node.api.labels[labels.STATE] == "failed"
    node.api.remove_pod("again", NAMESPACE)  # now it can be asked itself
    node.devices[forbidding].knobs[7] = 1
    assert manager.round().ready
    node.assert_says("on")


def test_a_refusal_is_remembered_where_the_pod_ends_only_after_the_round(node: CcNode) -> None:
    forbidding = node.addresses[0]
    run_vm(node, "vm", forbidding)
    node.devices[forbidding].knobs[7] = 0
    node.api.cluster.pods_linger = True
    node.want("on")
    manager = node.manager(EVICT)
    assert manager.round().message.startswith("waiting to change to mode on")
    node.api.cluster.pods_linger = False
    node.api.cluster.end_pod(NAMESPACE, "vm")
    assert "could not set knob 8" in manager.round().message
    asked = len(evictions(node))
    run_vm(node, "again", forbidding)
    assert "could not set knob 8" in manager.round().message
    assert len(evictions(node)) == asked
    assert never_paused(node)
    node.pods.end_all()


@pytest.mark.parametrize("word", ["a touched label", "another mode"])
def test_a_remembered_refusal_is_forgotten_at(node: CcNode, word: str) -> None:
    forbidding = refused_after_eviction(node, manager := node.manager(EVICT))
    node.devices[forbidding].knobs[7] = 1
    run_vm(node, "again", forbidding)
    if word == "another mode":
        node.want("devtools")
        assert manager.round().ready
        node.assert_says("devtools")
    else:
        manager._touch("the label was written")  # what the watch calls
        assert manager.round().ready
        node.assert_says("on")
    assert evictions(node) == ["vm", "again"]


def test_the_eviction_after_a_refusal_has_a_deadline_of_its_own(node: CcNode) -> None:
    forbidding = refused_after_eviction(node, manager := node.manager(EVICT))
    node.devices[forbidding].knobs[7] = 1
    run_vm(node, "again", forbidding)
    budget = node.api.add_budget(NAMESPACE, {"app": "again"}, allowed=0)
    node.time.sleep(ClusterSettings().evict_timeout_s)
    manager._touch("the label was written")
    assert manager.round().message.startswith("waiting to change to mode on: in use by a virtual machine")
    budget.allowed = 1
    assert manager.round().ready


def refused_after_eviction(node: CcNode, manager: Reconciler) -> PciAddress:
    """The only device that must change forbids it, and a pod had to go for that to be known."""
    forbidding = node.addresses[0]
    assert node.manager().round().ready
    node.want("on")
    for address in node.addresses[1:]:
        node.devices[address].knobs[8] = 1
        node.devices[address].knobs[10] = 2
        node.devices[address].reset()
    node.time.sleep(1.0)
    run_vm(node, "vm", forbidding)
    node.devices[forbidding].knobs[7] = 0
    assert f"{forbidding}: could not set knob 8 (cc) to 1" in manager.round().message
    assert evictions(node) == ["vm"]
    assert never_paused(node)
    return forbidding


def run_vm(node: CcNode, name: str, address: PciAddress) -> None:
    node.pods.admit(name, address)
    node.pods.start_vm(name, address)


def set_phase(node: CcNode, name: str, phase: str) -> None:
    pod = node.api.store.find(PODS, NAMESPACE, name)
    status: JsonObject = {"phase": phase}
    node.api.store.replace(PODS, pod | {"status": status})


def pods_in(node: CcNode, namespace: str) -> list[str]:
    return [text(pod, "metadata", "name") for pod in node.api.store.select(Selector(PODS, namespace))[0]]
