"""What a deployment comes to, in words that a reviewer reads: the checked-in expectations are made of these."""

from collections.abc import Iterable

from tests.deploy.manifests import Agent, agents
from tests.deploy.render import Object, identity
from tests.deploy.rights import rights_of


def meaning(objects: list[Object]) -> dict[str, object]:
    """Each agent by what it runs, where, and with which rights; and the names of everything else."""
    others = sorted("/".join(filter(None, identity(one))) for one in objects if one["kind"] != "DaemonSet")
    return {
        "agents": {name: _of(agent, objects) for name, agent in sorted(agents(objects).items())},
        "runtime classes": {one["metadata"]["name"]: _class(one) for one in objects if one["kind"] == "RuntimeClass"},
        "other objects": others,
    }


def _of(agent: Agent, objects: list[Object]) -> dict[str, object]:
    container = agent.container
    return {
        "namespace": agent.account[1],
        "runs": f"{container['image']}: {' '.join([*container['command'], *container['args']])}",
        "environment": [_variable(entry) for entry in container["env"]],
        "where": [_requirement(one) for one in agent.requirements],
        "rights": _rights(container["securityContext"]),
        "sees": [f"{m.host_path} {'rw' if m.is_writable else 'ro'}{_at(m.mount_path)}" for m in agent.mounts],
        "token": agent.pod["automountServiceAccountToken"],
        "API": [_right(right) for right in sorted(rights_of(objects, *agent.account))],
        "memory": f"{container['resources']['requests']['memory']} to {container['resources']['limits']['memory']}",
    }


def _variable(entry: Object) -> str:
    return f"{entry['name']}={entry.get('value') or entry['valueFrom']['fieldRef']['fieldPath']}"


def _requirement(one: Object) -> str:
    return f"{one['key']} {one['operator']} [{', '.join(one['values'])}]"


def _rights(context: Object) -> str:
    added = " ".join(context["capabilities"].get("add", ())) or "no capability"
    root = "read-only root" if context["readOnlyRootFilesystem"] else "writable root"
    named = ("appArmorProfile", "AppArmor"), ("seccompProfile", "seccomp"), ("seLinuxOptions", "SELinux")
    profiles = [f"{word} {context[key]['type']}" for key, word in named if key in context]
    return ", ".join((f"uid {context['runAsUser']}", added, root, *profiles))


def _at(mount_path: str) -> str:
    return "" if mount_path.startswith("/host/") else f" at {mount_path}"


def _right(right: Iterable[str]) -> str:
    verb, resource, *namespace = right
    return f"{verb} {resource}" + "".join(f" in {name}" for name in namespace)


def _class(one: Object) -> dict[str, object]:
    selected = sorted(f"{key}={value}" for key, value in one["scheduling"]["nodeSelector"].items())
    return {"overhead": dict(one["overhead"]["podFixed"]), "where": selected}
