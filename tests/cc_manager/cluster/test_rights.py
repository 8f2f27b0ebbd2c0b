"""The rights that cc-manager asks for are those that the manifests give, and those that its calls need."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cc_manager.cluster import labels
from cc_manager.cluster.rights import Right, rights
from cc_manager.settings import ClusterSettings, WhenBusy
from nodelib.events import EventPoster
from tests.cc_manager.running import RunningManager
from tests.cc_manager.simulated import NODE_NAME, QUICK, CcNode
from tests.cc_manager.workloads import add_operands
from tests.fakes.kube.roles import CC_MANAGER_ROLE, OPERATOR_NAMESPACE, allows

DEPLOY = Path(__file__).parents[3] / "deploy/base/cc-manager/rbac.yaml"
OURS = "cgpu-agents"

Key = tuple[str, str, str, str]


def keys(found: Iterable[Right]) -> set[Key]:
    return {(one.verb, one.group, one.resource, one.namespace) for one in found}


def given() -> Iterator[Key]:
    """What deploy/base gives, rule by rule."""
    for document in yaml.safe_load_all(DEPLOY.read_text()):
        if document["kind"] in ("Role", "ClusterRole"):
            namespace = document["metadata"].get("namespace", "")
            for rule in document["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        yield from ((verb, group, resource, namespace) for verb in rule["verbs"])


def test_the_manifests_give_exactly_what_is_asked_for() -> None:
    asked = keys(rights(OURS, pauses=True, claims=True))
    assert set(given()) == asked


def test_evicting_asks_for_one_right_more() -> None:
    more = keys(rights(OURS, evicts=True)) - keys(rights(OURS))
    assert more == {("create", "", "pods/eviction", "")}


def test_every_right_says_what_it_is_for() -> None:
    for right in rights(OURS, claims=True, evicts=True):
        assert right.why
        assert right.is_needed is not bool(right.without)


def test_a_life_with_everything_makes_no_call_beyond_them_and_uses_every_one(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=1, labels={labels.MODE: "off"}) as node:
        add_operands(node, "vfio-manager")
        settings = ClusterSettings(claim_operands=True)
        evict = replace(QUICK, when_busy=WhenBusy.EVICT)
        poster = EventPoster(node.kube, NODE_NAME, "cc-manager")
        assert node.manager(evict, cluster=settings, tell=poster.post).round().ready
        node.pods.admit("vm", node.addresses[0])
        node.want("on")
        assert node.manager(evict, cluster=settings, tell=poster.post).round().ready
        with RunningManager(node):
            node.api.wait_until(lambda: node.api.open_watches == 1)
        poster.close(10.0)
        made = {(r.verb, r.resource, r.namespace) for r in node.api.requests}
    asked = rights(OPERATOR_NAMESPACE, claims=True, evicts=True)
    held = {(r.verb, r.resource, r.namespace) if r.namespace else (r.verb, r.resource) for r in asked}
    for verb, resource, namespace in made:
        assert allows(held, verb, resource, namespace), f"{verb} {resource} in {namespace or 'the cluster'}"
    # The watch of pods is made only where they take their time: tests/cc_manager/test_pausing.py.
    used = {(verb, resource) for verb, resource, _ in made} | {("watch", "pods")}
    assert {(right.verb, right.resource) for right in asked} == used


def test_the_simulated_role_is_what_is_asked_for() -> None:
    asked = rights(OPERATOR_NAMESPACE, claims=True, evicts=True)
    for right in asked:
        assert allows(CC_MANAGER_ROLE, right.verb, right.resource, right.namespace), str(right)
    named = {(right.verb, right.resource) for right in asked}
    assert {held[:2] for held in CC_MANAGER_ROLE} == named


@pytest.mark.parametrize("without", [right for right in rights(OPERATOR_NAMESPACE, claims=True) if right.without])
def test_without_any_right_that_can_be_done_without_the_mode_is_still_set(tmp_path: Path, without: Right) -> None:
    with CcNode(tmp_path, gpus=1, labels={labels.MODE: "on"}) as node:
        add_operands(node, "vfio-manager")
        node.api.allow.clear()
        node.api.allow |= {
            (r.verb, r.resource, r.namespace) if r.namespace else (r.verb, r.resource)
            for r in rights(OPERATOR_NAMESPACE, claims=True)
            if r != without
        }
        with RunningManager(node, interval_s=0.1):
            node.api.wait_until(lambda: node.api.labels.get(labels.READY) == "true")
        node.assert_all_in("on")
