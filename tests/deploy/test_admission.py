"""Whoever holds cc-manager's token changes what cc-manager says about its own node, and nothing else.

tests/deploy/admission.py tells what its CEL evaluator does not cover.
"""

from itertools import pairwise
from typing import Any

import pytest

from cc_manager.cluster import labels as cc_labels
from tests.deploy.admission import Policy, changed, node_request
from tests.deploy.conftest import Lives
from tests.deploy.manifests import NAMESPACE, agents, deployed, of_kind
from tests.deploy.render import Object

CC_MANAGER = f"system:serviceaccount:{NAMESPACE}:cc-manager"
OPERANDS = (
    "vfio-manager",
    "kata-manager",
    "sandbox-device-plugin",
    "kata-sandbox-device-plugin",
    "sandbox-validator",
    "vgpu-manager",
    "vgpu-device-manager",
)
NODE: Object = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "node-1",
        "labels": {
            "kubernetes.io/hostname": "node-1",
            cc_labels.MODE: "on",
            cc_labels.READY: "true",
            "nvidia.com/gpu.deploy.vfio-manager": "true",
        },
        "annotations": {"node.alpha.kubernetes.io/ttl": "0", cc_labels.MESSAGE: "8 devices verified in mode on"},
    },
    "spec": {"podCIDR": "10.0.1.0/24"},
    "status": {"capacity": {"nvidia.com/pgpu": "8"}},
}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(of_kind(deployed(), "ValidatingAdmissionPolicy")["cgpu-agents-cc-manager"])


def allowed(policy: Policy, new: Object, old: Object = NODE, **request: Any) -> bool:
    return policy.judge(node_request(CC_MANAGER, **request), new, old).allowed


def test_the_policy_is_about_cc_managers_account_and_in_force() -> None:
    agent = agents()["cc-manager"]
    assert (agent.daemonset["metadata"]["namespace"], agent.pod["serviceAccountName"]) == (NAMESPACE, "cc-manager")
    binding = of_kind(deployed(), "ValidatingAdmissionPolicyBinding")["cgpu-agents-cc-manager"]["spec"]
    assert binding == {"policyName": "cgpu-agents-cc-manager", "validationActions": ["Deny"]}


@pytest.mark.parametrize("key", [cc_labels.STATE, cc_labels.READY, *(f"nvidia.com/gpu.deploy.{o}" for o in OPERANDS)])
def test_its_own_labels_it_may_set_and_remove(policy: Policy, key: str) -> None:
    there = changed(NODE, labels={key: "true"})
    assert allowed(policy, there, changed(NODE, labels={key: "false"}))
    assert allowed(policy, changed(there, labels={key: None}), there)


def test_its_own_annotations_it_may_set_and_remove(policy: Policy) -> None:
    kept = {"node.alpha.kubernetes.io/ttl": "0"}
    assert allowed(policy, changed(NODE, annotations=kept))
    assert allowed(policy, changed(NODE, annotations={**kept, cc_labels.MESSAGE: "x", cc_labels.DEVICES: "{}"}))


def test_a_node_without_any_label_or_annotation_may_get_its_own(policy: Policy) -> None:
    bare = {**NODE, "metadata": {"name": "node-1"}}
    assert allowed(policy, changed(bare, labels={cc_labels.STATE: "on"}), bare)
    assert allowed(policy, changed(bare, annotations={cc_labels.MESSAGE: "x"}), bare)
    assert not allowed(policy, changed(bare, labels={"zone": "a"}), bare)
    assert not allowed(policy, changed(bare, annotations={"zone": "a"}), bare)


@pytest.mark.parametrize(
    ("what", "new"),
    [
        ("a label that is the administrator's", changed(NODE, labels={cc_labels.MODE: "off"})),
        ("a label that decides where cc-manager runs", changed(NODE, labels={"nvidia.com/gpu.deploy.cc-manager": "x"})),
        ("a new label", changed(NODE, labels={"node-role.kubernetes.io/control-plane": ""})),
        ("a new label of our domain", changed(NODE, labels={"nvidia.com/cc.capable": "true"})),
        ("a label changed", changed(NODE, labels={"kubernetes.io/hostname": "node-2"})),
        ("a label removed", changed(NODE, labels={"kubernetes.io/hostname": None})),
        ("all labels removed", {**NODE, "metadata": {k: v for k, v in NODE["metadata"].items() if k != "labels"}}),
        ("a label that begins like one of its own", changed(NODE, labels={f"{cc_labels.STATE}.x": "on"})),
        ("a new annotation", changed(NODE, annotations={**NODE["metadata"]["annotations"], "x": "y"})),
        ("an annotation changed", changed(NODE, annotations={"node.alpha.kubernetes.io/ttl": "9"})),
        ("an annotation removed", changed(NODE, annotations={})),
        ("a taint", {**NODE, "spec": {**NODE["spec"], "taints": [{"key": "x", "effect": "NoExecute"}]}}),
        ("cordoned", {**NODE, "spec": {**NODE["spec"], "unschedulable": True}}),
        ("a finalizer", changed(NODE, finalizers=["x"])),
        ("an owner", changed(NODE, ownerReferences=[{"kind": "Pod", "name": "x", "uid": "1", "apiVersion": "v1"}])),
        ("its own label and another's", changed(NODE, labels={cc_labels.READY: "", "kubernetes.io/hostname": "x"})),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_nothing_else_of_its_node_may_it_change(policy: Policy, what: str, new: Object) -> None:
    assert not allowed(policy, new), what


def test_finalizers_and_owners_that_are_there_stay(policy: Policy) -> None:
    old = changed(NODE, finalizers=["keep"], ownerReferences=[{"name": "cluster"}])
    assert allowed(policy, changed(old, labels={cc_labels.READY: ""}), old)
    assert not allowed(policy, changed(old, finalizers=[]), old)
    assert not allowed(policy, changed(NODE), old)


@pytest.mark.parametrize("claim", ["node-2", "node-11", "", None])
def test_another_node_or_a_token_of_no_node_is_refused(policy: Policy, claim: str | None) -> None:
    """A token made by hand (`kubectl create token`) or an old Secret carries no node's name."""
    verdict = policy.judge(
        node_request(CC_MANAGER, node_claim=claim), changed(NODE, labels={cc_labels.READY: ""}), NODE
    )
    assert verdict.messages == (
        "cc-manager may only change the node that its pod runs on, with a token bound to that pod",
    )


def test_two_claims_are_no_claim(policy: Policy) -> None:
    request = node_request(CC_MANAGER)
    request["userInfo"]["extra"] = {"authentication.kubernetes.io/node-name": ["node-1", "node-2"]}
    assert not policy.judge(request, changed(NODE, labels={cc_labels.READY: ""}), NODE).allowed


@pytest.mark.parametrize(("operation", "new", "old"), [("CREATE", NODE, None), ("DELETE", None, NODE)])
def test_it_may_neither_create_nor_delete_a_node(
    policy: Policy, operation: str, new: Object | None, old: Object | None
) -> None:
    assert not policy.judge(node_request(CC_MANAGER, operation=operation), new, old).allowed


def test_no_subresource_of_a_node_is_open_to_it(policy: Policy) -> None:
    assert not allowed(policy, NODE, sub="status")


def test_nobody_else_is_concerned(policy: Policy) -> None:
    """With `failurePolicy: Fail` a mistake here would stop every kubelet of the cluster."""
    new = {**NODE, "spec": {"unschedulable": True}}
    for user in ("system:node:node-1", "kubernetes-admin", f"system:serviceaccount:{NAMESPACE}:vfio-manager"):
        for operation, (after, before) in {
            "CREATE": (NODE, None),
            "UPDATE": (new, NODE),
            "DELETE": (None, NODE),
        }.items():
            assert policy.judge(node_request(user, operation=operation, node_claim=None), after, before).allowed


@pytest.mark.parametrize("component", ["", "evict"])
def test_everything_that_cc_manager_itself_does_is_allowed(policy: Policy, component: str, lived: Lives) -> None:
    """The real agent through changes of mode, with operands claimed, paused and restored: each state after the last."""
    states = [
        {**NODE, "metadata": {"name": "node-1", "labels": labels, "annotations": annotations}}
        for labels, annotations in lived("cc-manager", component).history
    ]
    its_own = [
        (new, old)
        for old, new in pairwise(states)
        if new["metadata"]["labels"].get(cc_labels.MODE) == old["metadata"]["labels"].get(cc_labels.MODE)
    ]
    assert len(its_own) > 8
    changed_keys = {
        key
        for new, old in its_own
        for field in ("labels", "annotations")
        for key in new["metadata"][field].keys() | old["metadata"][field].keys()
        if new["metadata"][field].get(key) != old["metadata"][field].get(key)
    }
    assert {cc_labels.STATE, cc_labels.READY, cc_labels.DEVICES, "nvidia.com/gpu.deploy.vfio-manager"} <= changed_keys
    for new, old in its_own:
        verdict = policy.judge(node_request(CC_MANAGER), new, old)
        assert verdict.allowed, (new["metadata"], old["metadata"], verdict.messages)
