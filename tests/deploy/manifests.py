"""The manifests as tests look at them: what is deployed, and what each agent's container is given."""

import functools
import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.render import Object, identity, objects_in, render

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE = DEPLOY / "base"
OVERLAYS = tuple(sorted(path for path in (DEPLOY / "overlays").iterdir() if path.is_dir()))
COMPONENTS = tuple(sorted(path for path in (DEPLOY / "components").iterdir() if path.is_dir()))
SAMPLES = tuple(sorted((DEPLOY / "samples").glob("*.yaml")))
AGENTS = ("vfio-manager", "cc-manager", "kata-manager", "device-plugin")
NAMESPACE = "cgpu-agents"
HOST = "/host"
POD_IP = "192.0.2.7"


@functools.cache
def _rendered(folder: Path) -> tuple[Object, ...]:
    return tuple(render(folder))


def deployed(folder: Path = BASE) -> list[Object]:
    """The objects of one kustomization, for the caller to keep."""
    return deepcopy(list(_rendered(folder)))


def with_component(name: str, folder: Path) -> list[Object]:
    """Base with the component *name*, by a kustomization that is written into *folder*."""
    (folder / "kustomization.yaml").write_text(overlay_text(name, folder), encoding="utf-8")
    return render(folder)


def overlay_text(name: str, folder: Path) -> str:
    """A kustomization in *folder* that puts the component *name* upon base."""
    base, component = (os.path.relpath(path, folder) for path in (BASE, DEPLOY / "components" / name))
    return f"resources: [{base}]\ncomponents: [{component}]\n"


def everything() -> Iterator[tuple[str, Object]]:
    """Every object of base, overlays and samples once, with where it is from."""
    seen: list[Object] = []
    for folder in (BASE, *OVERLAYS):
        for item in deployed(folder):
            if item not in seen:
                seen.append(item)
                yield f"{folder.name}: {'/'.join(identity(item))}", item
    for path in SAMPLES:
        for item in objects_in(path):
            yield f"{path.name}: {'/'.join(identity(item))}", item


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """The objects of one kind by name."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host in a container."""

    host_path: str
    mount_path: str
    is_writable: bool

    @property
    def is_below_host_root(self) -> bool:
        return self.mount_path == HOST + self.host_path


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent's DaemonSet."""

    name: str
    daemonset: Object

    @property
    def pod(self) -> Object:
        pod: Object = self.daemonset["spec"]["template"]["spec"]
        return pod

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def account(self) -> tuple[str, str]:
        """Its service account's name and namespace."""
        return self.pod["serviceAccountName"], self.daemonset["metadata"]["namespace"]

    @property
    def mounts(self) -> tuple[Mount, ...]:
        paths = {volume["name"]: volume["hostPath"]["path"] for volume in self.pod["volumes"]}
        return tuple(
            Mount(paths[mount["name"]], mount["mountPath"], not mount.get("readOnly", False))
            for mount in self.container["volumeMounts"]
        )

    @property
    def requirements(self) -> list[Object]:
        """What the node's labels must say."""
        required = self.pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = required["nodeSelectorTerms"]
        expressions: list[Object] = term["matchExpressions"]
        return expressions

    def environment(self, pod_ip: str = POD_IP) -> dict[str, str]:
        """What the container's environment is on node-1."""
        fields = {
            "spec.nodeName": "node-1",
            "status.podIP": pod_ip,
            "metadata.namespace": self.daemonset["metadata"]["namespace"],
        }
        return {
            entry["name"]: entry["value"] if "value" in entry else fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            for entry in self.container["env"]
        }

    def arguments(self, pod_ip: str = POD_IP) -> list[str]:
        """Its arguments, variables put in as the kubelet does."""
        arguments = []
        for argument in self.container["args"]:
            for name, value in self.environment(pod_ip).items():
                argument = argument.replace(f"$({name})", value)  # noqa: PLW2901 - grows by one variable a turn
            arguments.append(argument)
        return arguments


def agents(objects: list[Object] | None = None) -> dict[str, Agent]:
    """The agents of a deployment, base's by default, by name."""
    found = of_kind(deployed() if objects is None else objects, "DaemonSet")
    return {name: Agent(name, daemonset) for name, daemonset in found.items()}


def matches(requirement: Object, labels: Mapping[str, str]) -> bool:
    """Whether a node with *labels* meets a requirement of an affinity (Kubernetes: node affinity)."""
    value = labels.get(requirement["key"])
    match requirement["operator"]:
        case "In":
            return value in requirement["values"]
        case "NotIn":
            return value not in requirement["values"]
        case "Exists":
            return value is not None
        case other:
            raise NotImplementedError(other)
