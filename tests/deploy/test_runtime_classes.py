"""Where a pod of each runtime class may go, and what it takes from its node."""

from pathlib import Path

import pytest

from cc_manager.cluster import labels as cc_labels
from cc_manager.mode import CcMode
from tests.deploy.manifests import DEPLOY, SAMPLES, deployed, of_kind
from tests.deploy.render import Object, objects_in

KATA = {"katacontainers.io/kata-runtime": "true"}
SNP, TDX = {"amd.feature.node.kubernetes.io/snp": "true"}, {"intel.feature.node.kubernetes.io/tdx": "true"}
PLAIN = "kata-qemu-nvidia-gpu"
KEYS = {f"{PLAIN}-snp": "sev-snp.amd.com/esids", f"{PLAIN}-tdx": "tdx.intel.com/keys"}


def classes() -> dict[str, Object]:
    return of_kind(deployed(), "RuntimeClass")


def open_to(labels: dict[str, str]) -> set[str]:
    """The classes whose pods may go to a node with *labels*."""
    return {name for name, one in classes().items() if one["scheduling"]["nodeSelector"].items() <= labels.items()}


def told(mode: CcMode) -> dict[str, str]:
    """What cc-manager says of a node that is verified in *mode*."""
    return {cc_labels.READY: cc_labels.succeeded(mode, "{}", 8).ready}


@pytest.mark.parametrize("mode", [CcMode.ON, CcMode.PPCIE])
def test_confidential_pods_go_to_a_verified_node_of_their_cpu(mode: CcMode) -> None:
    assert open_to({**KATA, **SNP, **told(mode)}) == {f"{PLAIN}-snp"}
    assert open_to({**KATA, **TDX, **told(mode)}) == {f"{PLAIN}-tdx"}


def test_plain_pods_go_to_a_node_that_is_verified_to_be_off() -> None:
    assert open_to({**KATA, **SNP, **told(CcMode.OFF)}) == {PLAIN}


@pytest.mark.parametrize(
    "publication",
    [
        cc_labels.changing(CcMode.ON, "{}"),
        cc_labels.waiting(CcMode.ON, "a GPU is in use", "{}"),
        cc_labels.failed("a GPU did not boot"),
        cc_labels.nothing_there(),
        cc_labels.succeeded(CcMode.DEVTOOLS, "{}", 8),
    ],
    ids=["changing", "waiting", "failed", "no GPU", "devtools"],
)
def test_during_a_change_and_after_a_failure_no_pod_of_any_class_is_scheduled(
    publication: cc_labels.Publication,
) -> None:
    """Field problem 26: pods are still scheduled while the mode changes."""
    assert open_to({**KATA, **SNP, cc_labels.READY: publication.ready}) == set()


def test_without_a_word_of_cc_manager_no_pod_is_scheduled() -> None:
    assert open_to({**KATA, **SNP}) == set()


def test_a_node_without_kata_takes_none() -> None:
    assert open_to({**SNP, **told(CcMode.ON)}) == set()


def test_a_confidential_pod_takes_one_of_the_cpus_keys_and_a_plain_one_none() -> None:
    for name, one in classes().items():
        extended = {key for key in one["overhead"]["podFixed"] if "/" in key}
        assert extended == ({KEYS[name]} if name in KEYS else set())
        assert one["handler"] == name


def test_the_keys_are_those_that_the_nodes_offer() -> None:
    rules = of_kind(deployed(), "NodeFeatureRule")["cgpu-agents"]["spec"]["rules"]
    offered = {name for rule in rules for name in rule.get("extendedResources", {})}
    assert offered == set(KEYS.values())


def test_without_cc_plain_pods_wait_for_no_mode() -> None:
    (plain,) = of_kind(deployed(DEPLOY / "overlays/without-cc"), "RuntimeClass").values()
    assert plain["metadata"]["name"] == PLAIN
    assert plain["scheduling"]["nodeSelector"] == {**KATA, "nvidia.com/gpu.workload.config": "vm-passthrough"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_uses_a_class_and_resources_that_are_there(sample: Path) -> None:
    for item in objects_in(sample):
        assert item["spec"]["runtimeClassName"] in classes()
        wanted = [one["resources"]["limits"] for one in item["spec"]["containers"]]
        gpus = {key for limits in wanted for key in limits if key.startswith("nvidia.com/")}
        assert "nvidia.com/pgpu" in gpus <= {"nvidia.com/pgpu", "nvidia.com/nvswitch"}
        assert all("memory" in limits for limits in wanted), "a VM's size comes from its limits"
