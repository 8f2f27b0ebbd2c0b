"""Which pods run an operand: by their node selector, by their DaemonSet, by the labels of the field."""

import pytest

from cc_manager.cluster.operand_pods import DaemonSet, Pod, parse_daemon_set, parse_pod, pods_of
from cc_manager.cluster.operands import OPERANDS, key_of

FIELD = {
    "vfio-manager": ("name", "nvidia-vfio-manager"),
    "kata-manager": ("name", "nvidia-kata-manager"),
    "sandbox-validator": ("app", "nvidia-sandbox-validator"),
    "sandbox-device-plugin": ("app", "nvidia-sandbox-device-plugin-daemonset"),
    "kata-sandbox-device-plugin": ("app", "nvidia-kata-sandbox-device-plugin-daemonset"),
    "vgpu-manager": ("app", "nvidia-vgpu-manager-daemonset"),
    "vgpu-device-manager": ("app", "nvidia-vgpu-device-manager"),
}


def pod(name: str = "p", **fields: object) -> Pod:
    return Pod("gpu-operator", name, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("operand", OPERANDS)
def test_the_labels_of_the_field_are_enough(operand: str) -> None:
    """facts/labels-and-settings.md, "Under an existing GPU operator"."""
    found = pod(labels=(("x", "y"), FIELD[operand]))
    assert pods_of([operand], [found], []) == (found,)
    assert pods_of([other for other in OPERANDS if other != operand], [found], []) == ()


def test_a_daemon_sets_pod_is_known_by_its_node_selector() -> None:
    found = pod(daemon_set="ours", node_selector=frozenset({key_of("vfio-manager")}))
    assert pods_of(["vfio-manager"], [found], []) == (found,)
    assert pods_of(["kata-manager"], [found], []) == ()


def test_a_workload_that_selects_nodes_by_a_deploy_label_is_no_operand() -> None:
    assert pods_of(["vfio-manager"], [pod(node_selector=frozenset({key_of("vfio-manager")}))], []) == ()


def test_a_daemon_sets_pod_is_known_by_the_affinity_of_its_set() -> None:
    found, other = pod("a", daemon_set="ours"), pod("b", daemon_set="another")
    assert pods_of(["vfio-manager"], [found, other], [DaemonSet("ours", frozenset({key_of("vfio-manager")}))]) == (
        found,
    )


@pytest.mark.parametrize(
    ("phase", "counts"), [("Running", True), ("Pending", True), ("Succeeded", False), ("Failed", False)]
)
def test_a_pod_that_has_ended_is_not_waited_for(phase: str, counts: bool) -> None:
    found = pod(labels=(FIELD["vfio-manager"],), phase=phase)
    assert bool(pods_of(["vfio-manager"], [found], [])) is counts


def test_what_the_api_server_lists_is_understood() -> None:
    item = {
        "metadata": {
            "name": "vfio-1",
            "namespace": "gpu-operator",
            "uid": "u",
            "labels": {"name": "nvidia-vfio-manager", "odd": 5},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "x"}, {"kind": "DaemonSet", "name": "vfio"}],
        },
        "spec": {"nodeName": "node-1", "nodeSelector": {key_of("vfio-manager"): "true"}},
        "status": {"phase": "Running"},
    }
    assert parse_pod(item) == Pod(
        "gpu-operator",
        "vfio-1",
        "u",
        "node-1",
        "Running",
        (("name", "nvidia-vfio-manager"),),
        frozenset({key_of("vfio-manager")}),
        "vfio",
    )


@pytest.mark.parametrize("item", [None, 5, [], {}, {"metadata": 5, "spec": [], "status": None}])
def test_a_pod_or_set_that_makes_no_sense_is_nobodys(item: object) -> None:
    assert parse_pod(item) == Pod("", "")
    assert parse_daemon_set(item) == DaemonSet("", frozenset())


def test_a_daemon_set_names_labels_in_its_selector_and_its_affinity() -> None:
    expressions = [{"key": key_of("vfio-manager"), "operator": "In", "values": ["true"]}, {"odd": 1}]
    required = {"nodeSelectorTerms": [{"matchExpressions": expressions}, 5]}
    spec = {
        "nodeSelector": {key_of("sandbox-validator"): "true", "zone": "a"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
    }
    found = parse_daemon_set({"metadata": {"name": "ours"}, "spec": {"template": {"spec": spec}}})
    assert found.name == "ours"
    assert found.operands == {"vfio-manager", "sandbox-validator"}
