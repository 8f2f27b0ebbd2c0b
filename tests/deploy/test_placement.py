"""On which nodes the agents run, and in which order they get there."""

from pathlib import Path

import pytest

from cc_manager.cluster import labels as cc_labels
from tests.deploy.manifests import AGENTS, DEPLOY, agents, deployed, matches

PASSTHROUGH = {"nvidia.com/gpu.workload.config": "vm-passthrough"}
CAPABLE = {**PASSTHROUGH, "nvidia.com/cc.capable": "true"}
OPERANDS = {
    "vfio-manager": "vfio-manager",
    "kata-manager": "kata-manager",
    "device-plugin": "kata-sandbox-device-plugin",
}
"""The operand label of each agent that is paused around a change of mode."""
PAUSED = "paused-for-cc-mode-change"
WITHOUT_CC = DEPLOY / "overlays/without-cc"


def running(labels: dict[str, str], folder: Path | None = None) -> set[str]:
    """The agents that run on a node with *labels*."""
    there = agents(deployed(folder) if folder else None)
    return {name for name, agent in there.items() if all(matches(one, labels) for one in agent.requirements)}


def deploy_labels(value: str) -> dict[str, str]:
    return {f"nvidia.com/gpu.deploy.{operand}": value for operand in OPERANDS.values()}


def test_without_labels_nothing_runs_anywhere() -> None:
    assert running({}) == set()
    assert running({"nvidia.com/gpu.workload.config": "container", "nvidia.com/cc.capable": "true"}) == set()
    assert running({"nvidia.com/gpu.workload.config": "vm-vgpu", **deploy_labels("true")}) == set()


def test_a_new_node_gets_cc_manager_first_which_claims_the_others() -> None:
    assert running(CAPABLE) == {"cc-manager"}
    assert running({**CAPABLE, **deploy_labels("true")}) == set(AGENTS)


@pytest.mark.parametrize("value", [PAUSED, f"custom_{PAUSED}", "false", "", "paused-for-driver-upgrade"])
def test_a_paused_or_refused_operand_leaves_the_node_and_cc_manager_stays(value: str) -> None:
    assert running({**CAPABLE, **deploy_labels(value)}) == {"cc-manager"}


@pytest.mark.parametrize("agent", OPERANDS)
def test_one_operand_is_paused_without_the_others(agent: str) -> None:
    labels = {**CAPABLE, **deploy_labels("true"), f"nvidia.com/gpu.deploy.{OPERANDS[agent]}": PAUSED}
    assert running(labels) == set(AGENTS) - {agent}


def test_cc_manager_is_switched_off_by_its_label_and_only_by_false() -> None:
    key = "nvidia.com/gpu.deploy.cc-manager"
    assert running({**CAPABLE, key: "false"}) == set()
    assert running({**CAPABLE, key: "true"}) == {"cc-manager"}


@pytest.mark.parametrize("capable", [{}, {"nvidia.com/cc.capable": "false"}, {"nvidia.com/cc.capable": ""}])
def test_a_node_that_is_not_capable_gets_no_cc_manager(capable: dict[str, str]) -> None:
    assert running({**PASSTHROUGH, **capable, **deploy_labels("true")}) == set(OPERANDS)


def test_without_cc_the_workload_label_is_enough() -> None:
    assert running(PASSTHROUGH, WITHOUT_CC) == set(OPERANDS)
    assert running({}, WITHOUT_CC) == set()


def test_the_state_of_the_mode_never_decides_about_an_agent() -> None:
    """Else a failed change would take away who could mend it."""
    for state in ("true", "false", ""):
        assert running({**CAPABLE, **deploy_labels("true"), cc_labels.READY: state}) == set(AGENTS)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_rollout_is_not_stalled_by_one_node_and_taints_keep_nobody_away(agent: str) -> None:
    spec = agents()[agent].daemonset["spec"]
    assert spec["updateStrategy"] == {"rollingUpdate": {"maxUnavailable": "100%"}}
    assert spec["template"]["spec"]["tolerations"] == [{"operator": "Exists"}]
    assert spec["template"]["spec"]["priorityClassName"] == "system-node-critical"
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
