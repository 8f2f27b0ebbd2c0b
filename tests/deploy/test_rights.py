"""Each agent has the rights that its code uses, and no other. Field problem 39: everything runs privileged.

What the code uses is what it did in a life on the simulated node (tests/deploy/life.py) under the arguments and the
RBAC of its manifest.
"""

from pathlib import Path

import pytest

from tests.deploy.conftest import Lives
from tests.deploy.manifests import AGENTS, Mount, agents, deployed, with_component
from tests.deploy.rights import rights_of

OPENED_BY_OTHERS = {
    ("vfio-manager", "/etc/modprobe.d"): "modprobe reads it",
    ("kata-manager", "/etc/modprobe.d"): "modprobe reads it",
    ("device-plugin", "/var/lib/kubelet/pod-resources"): "`doctor` asks the kubelet there; the daemon does not",
    ("kata-manager", "/var/lib/kubelet/pod-resources"): "`doctor` asks the kubelet there; the daemon does not",
}
"""Mounts that our own code does not open, and who does."""

LOOKED_FOR = {
    ("vfio-manager", "/dev"): "the kernel's drivers and links tell whether a function is bound",
    ("cc-manager", "/dev"): "/sys tells whether a device is in use",
    ("kata-manager", "/proc/sys/kernel"): "uname(2) tells the kernel's release too",
}
"""Folders that the code looks into where they are there, and why the agent does without."""


def below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def host_mounts(agent: str) -> list[Mount]:
    return [mount for mount in agents()[agent].mounts if (agent, mount.host_path) not in OPENED_BY_OTHERS]


@pytest.mark.parametrize("agent", AGENTS)
def test_everything_that_the_code_opens_is_mounted_as_it_needs_it(agent: str, lived: Lives) -> None:
    there = [mount for mount in host_mounts(agent) if mount.is_below_host_root]
    writable = [mount.host_path for mount in there if mount.is_writable]
    optional = [path for name, path in LOOKED_FOR if name == agent]
    life = lived(agent)
    assert [p for p in life.writes if not any(below(p, folder) for folder in writable)] == []
    readable = [*(mount.host_path for mount in there), *optional]
    assert [p for p in life.reads if not any(below(p, folder) for folder in readable)] == []


@pytest.mark.parametrize("agent", AGENTS)
def test_nothing_is_mounted_that_the_code_does_not_open(agent: str, lived: Lives) -> None:
    life = lived(agent)
    opened = {*life.reads, *life.writes}
    mounts = host_mounts(agent)
    assert [m.host_path for m in mounts if not any(below(path, m.host_path) for path in opened)] == []
    idle = [m.host_path for m in mounts if m.is_writable and not any(below(path, m.host_path) for path in life.writes)]
    assert idle == [], "writable, and nothing was written there"


@pytest.mark.parametrize(("agent", "path"), LOOKED_FOR)
def test_what_an_agent_does_without_is_not_mounted_and_still_looked_for(agent: str, path: str, lived: Lives) -> None:
    assert not any(below(path, mount.host_path) for mount in agents()[agent].mounts)
    assert any(below(opened, path) for opened in lived(agent).reads)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_agent_writes_nothing_into_its_own_file_system(agent: str, lived: Lives) -> None:
    assert lived(agent).written_elsewhere == ()
    assert agents()[agent].container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(("agent", "component"), [*((agent, "") for agent in AGENTS), ("cc-manager", "evict")])
def test_the_api_server_is_asked_for_exactly_what_is_allowed(
    agent: str, component: str, lived: Lives, tmp_path: Path
) -> None:
    allowed = rights_of(with_component(component, tmp_path) if component else deployed(), agent)
    requests = lived(agent, component).requests
    assert [request for request in requests if request[3] == 403] == []
    asked = {(verb, resource, namespace) for verb, resource, namespace, _ in requests}
    used = {right for right in allowed for one in asked if right in (one, one[:2])}
    assert allowed - used == set(), "allowed, and never asked for"


def test_evicting_is_a_right_of_the_component_alone(tmp_path: Path) -> None:
    evicting = ("create", "pods/eviction")
    assert rights_of(with_component("evict", tmp_path), "cc-manager") - rights_of(deployed(), "cc-manager") == {
        evicting
    }


@pytest.mark.parametrize("agent", AGENTS)
def test_a_token_is_mounted_only_where_the_api_server_is_asked(agent: str) -> None:
    """The service account's own setting is no, so that no other pod under it gets one either."""
    found = agents()[agent]
    (account,) = [
        item
        for item in deployed()
        if item["kind"] == "ServiceAccount" and item["metadata"]["name"] == found.pod["serviceAccountName"]
    ]
    assert account["automountServiceAccountToken"] is False
    assert found.pod["automountServiceAccountToken"] is bool(rights_of(deployed(), agent))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_capability_is_there_exactly_where_the_code_needs_it(agent: str, lived: Lives) -> None:
    reads = lived(agent).reads
    needed = {
        "SYS_MODULE": any(below(path, "/lib/modules") for path in reads),  # whoever loads modules looks there first
        "SYS_PTRACE": "/proc" in reads,  # a walk through all processes, to find who has a device open
    }
    capabilities = agents()[agent].container["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    assert capabilities.get("add", []) == [name for name, is_needed in needed.items() if is_needed]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_container_has_no_other_way_to_more(agent: str) -> None:
    context = agents()[agent].container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in context
    assert ("appArmorProfile" in context) == ("SYS_PTRACE" in context["capabilities"].get("add", []))
    shared = {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"}
    assert shared & set(agents()[agent].pod) == set()


def test_no_agent_sees_all_of_the_host() -> None:
    for agent in agents().values():
        for mount in agent.mounts:
            assert mount.host_path not in ("/", "/run", "/var", "/etc", "/var/lib/kubelet", "/var/run"), agent.name
            assert not (mount.is_writable and mount.host_path in ("/proc", "/dev")), agent.name
