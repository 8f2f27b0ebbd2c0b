"""The overlay for clusters with a GPU operator: nothing of the operator's is touched, and both work on one node."""

import os
from pathlib import Path

import pytest
import yaml

from cc_manager.cluster import labels as cc_labels
from tests.deploy.admission import Policy, changed, node_request
from tests.deploy.manifests import AGENTS, BASE, COMPONENTS, DEPLOY, agents, deployed, of_kind
from tests.deploy.render import render
from tests.deploy.rights import rights_of
from tests.deploy.test_admission import NODE
from tests.deploy.test_commands import parsed

OVERLAY = DEPLOY / "overlays/gpu-operator"
OPERATOR = "gpu-operator"


def test_every_agent_is_in_the_operators_namespace_where_cc_manager_looks_for_operands() -> None:
    there = agents(deployed(OVERLAY))
    assert {agent.account for agent in there.values()} == {(name, OPERATOR) for name in AGENTS}
    assert parsed(there["cc-manager"])["operator_namespace"] == OPERATOR
    accounts = of_kind(deployed(OVERLAY), "ServiceAccount")
    assert {account["metadata"]["namespace"] for account in accounts.values()} == {OPERATOR}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_rights_are_those_of_base_in_the_other_namespace(agent: str) -> None:
    moved = {
        tuple(OPERATOR if part == "cgpu-agents" else part for part in right) for right in rights_of(deployed(), agent)
    }
    assert rights_of(deployed(OVERLAY), agent, OPERATOR) == moved


def test_no_operand_label_is_claimed_that_the_operator_left_out() -> None:
    assert parsed(agents()["cc-manager"])["claim_operands"] is True
    assert parsed(agents(deployed(OVERLAY))["cc-manager"])["claim_operands"] is False


def test_the_validators_ready_file_is_left_to_it() -> None:
    vfio_manager = agents(deployed(OVERLAY))["vfio-manager"]
    assert parsed(vfio_manager)["ready_file"] == ""
    assert "/run/nvidia/validations" not in {mount.host_path for mount in vfio_manager.mounts}


def test_what_the_operator_has_is_not_made_again() -> None:
    kinds = {item["kind"] for item in deployed(OVERLAY)}
    assert not {"Namespace", "RuntimeClass"} & kinds
    assert "NodeFeatureRule" in kinds, "its chart has no rule for cc.capable any more"


def test_the_admission_policy_holds_for_the_account_there() -> None:
    policy = Policy(of_kind(deployed(OVERLAY), "ValidatingAdmissionPolicy")["cgpu-agents-cc-manager"])
    request = node_request(f"system:serviceaccount:{OPERATOR}:cc-manager")
    assert policy.judge(request, changed(NODE, labels={cc_labels.READY: ""}), NODE).allowed
    assert not policy.judge(request, changed(NODE, labels={"zone": "b"}), NODE).allowed


def test_every_other_component_is_moved_along(tmp_path: Path) -> None:
    others = [path for path in COMPONENTS if path.name != "gpu-operator"]
    base, *components = (
        os.path.relpath(path, tmp_path) for path in (BASE, *others, DEPLOY / "components/gpu-operator")
    )
    said = {"resources": [base], "components": components}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    objects = render(tmp_path)
    assert "cgpu-agents" not in {item["metadata"].get("namespace") for item in objects}
    subjects = [subject for item in objects for subject in item.get("subjects", ())]
    assert {subject["namespace"] for subject in subjects} == {OPERATOR}
    assert ("create", "pods/eviction") in rights_of(objects, "cc-manager", OPERATOR)
    assert ("create", "events", "default") in rights_of(objects, "vfio-manager", OPERATOR)
