"""Which pods of the node belong to which operand, from what the API server lists. Pure.

A DaemonSet's pod keeps the nodeSelector of its template and loses its affinity (the controller puts its own there), so
the pod itself is asked first and its DaemonSet second. Where DaemonSets may not be read, the labels in use in the field
decide: facts/labels-and-settings.md, "Under an existing GPU operator".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cc_manager.cluster.operands import OPERANDS, PREFIX, key_of

_FIELD_LABELS = {
    "vfio-manager": ("name", "nvidia-vfio-manager"),
    "kata-manager": ("name", "nvidia-kata-manager"),
    "sandbox-validator": ("app", "nvidia-sandbox-validator"),
    "sandbox-device-plugin": ("app", "nvidia-sandbox-device-plugin-daemonset"),
    "kata-sandbox-device-plugin": ("app", "nvidia-kata-sandbox-device-plugin-daemonset"),
    "vgpu-manager": ("app", "nvidia-vgpu-manager-daemonset"),
    "vgpu-device-manager": ("app", "nvidia-vgpu-device-manager"),
}
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API server lists it."""

    namespace: str
    name: str
    uid: str = ""
    node: str = ""
    phase: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    node_selector: frozenset[str] = frozenset()
    """The keys of its nodeSelector."""
    daemon_set: str | None = None
    """The DaemonSet that owns it."""

    @property
    def has_ended(self) -> bool:
        """Whether none of its containers runs, or ever will again."""
        return self.phase in _ENDED

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """A DaemonSet and the node labels that its nodeSelector or node affinity names."""

    name: str
    selects: frozenset[str]

    @property
    def operands(self) -> frozenset[str]:
        return frozenset(key.removeprefix(PREFIX) for key in self.selects if key.removeprefix(PREFIX) in OPERANDS)


def pods_of(operands: Iterable[str], pods: Iterable[Pod], daemon_sets: Iterable[DaemonSet]) -> tuple[Pod, ...]:
    """Those of *pods* that run one of *operands*, by namespace and name."""
    wanted = tuple(operands)
    owners = {one.name: one.operands for one in daemon_sets}
    return tuple(pod for pod in sorted(pods, key=str) if any(_runs(pod, operand, owners) for operand in wanted))


def _runs(pod: Pod, operand: str, owners: Mapping[str, frozenset[str]]) -> bool:
    if pod.has_ended:
        return False
    if _FIELD_LABELS[operand] in pod.labels:
        return True
    # A workload may select nodes by a deploy label too; only a DaemonSet's pod goes away when the label changes.
    return pod.daemon_set is not None and (
        key_of(operand) in pod.node_selector or operand in owners.get(pod.daemon_set, ())
    )


def parse_pod(item: object) -> Pod:
    """A pod of a list or watch; whatever in it makes no sense counts as not there."""
    metadata, spec, status = (_section(item, name) for name in ("metadata", "spec", "status"))
    owners = metadata.get("ownerReferences")
    sets = [_text(one, "name") for one in _items(owners) if _text(one, "kind") == "DaemonSet"]
    return Pod(
        _text(metadata, "namespace"),
        _text(metadata, "name"),
        _text(metadata, "uid"),
        _text(spec, "nodeName"),
        _text(status, "phase"),
        tuple((key, value) for key, value in _section(metadata, "labels").items() if isinstance(value, str)),
        frozenset(_section(spec, "nodeSelector")),
        sets[0] if sets else None,
    )


def parse_daemon_set(item: object) -> DaemonSet:
    """A DaemonSet of a list, as far as it says where it runs."""
    spec = _section(_section(_section(item, "spec"), "template"), "spec")
    affinity = _section(_section(spec, "affinity"), "nodeAffinity")
    required = _section(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
    expressions = [
        e for term in _items(required.get("nodeSelectorTerms")) for e in _items(term.get("matchExpressions"))
    ]
    keys = frozenset((*_section(spec, "nodeSelector"), *(_text(expression, "key") for expression in expressions)))
    return DaemonSet(_text(_section(item, "metadata"), "name"), keys)


def _section(value: object, name: str) -> Mapping[str, object]:
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _items(value: object) -> list[Mapping[str, object]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text(value: Mapping[str, object], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""
