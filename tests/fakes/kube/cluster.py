"""What the rest of a cluster does with pods: DaemonSets that follow the node's labels, evictions, pods that end.

Sources: kubernetes, pkg/controller/daemon (which nodes a DaemonSet runs on), pkg/registry/core/pod/storage/eviction.go
(what an eviction answers), the kubelet's pod life (a pod is terminating until its containers have ended).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.fakes.kube.patch import JsonObject, JsonValue, section, text
from tests.fakes.kube.rules import ApiError
from tests.fakes.kube.store import CREATED_AT, Change, Kind, Selector, Store

_META = frozenset({"metadata.name", "metadata.namespace"})
NODES = Kind("nodes", "Node", "v1", False, frozenset({"metadata.name"}))
PODS = Kind("pods", "Pod", "v1", True, _META | {"spec.nodeName", "status.phase"})
DAEMON_SETS = Kind("daemonsets", "DaemonSet", "apps/v1", True, _META)

OnPodEnd = Callable[[str, str], None]
"""Told the namespace and name of a pod that has ended, under the store's lock."""


@dataclass(slots=True)
class Budget:
    """A PodDisruptionBudget: how many more of the pods with these labels may be disrupted now."""

    namespace: str
    labels: Mapping[str, str]
    allowed: int

    def covers(self, pod: JsonObject) -> bool:
        has = section(pod, "metadata", "labels")
        return text(pod, "metadata", "namespace") == self.namespace and self.labels.items() <= has.items()


@dataclass(slots=True)
class Cluster:
    """The controllers and the node's kubelet, as far as pods are concerned.

    While `pods_linger`, a pod that is deleted stays terminating until `end_pod`: the kubelet waits for its containers.
    """

    store: Store
    node: str
    pods_linger: bool = False
    budgets: list[Budget] = field(default_factory=list)
    on_pod_end: list[OnPodEnd] = field(default_factory=list)
    _made: int = 0

    def add_pod(
        self,
        name: str,
        namespace: str,
        labels: Mapping[str, str],
        *,
        node: str | None = None,
        owner: JsonObject | None = None,
        spec: JsonObject | None = None,
    ) -> None:
        metadata: JsonObject = {"name": name, "namespace": namespace, "labels": dict(labels)}
        if owner is not None:
            metadata["ownerReferences"] = [owner]
        # Clients that check what they read expect a container in every pod.
        containers: list[JsonValue] = [{"name": "main", "image": "example.test/main"}]
        whole: JsonObject = {"nodeName": self.node if node is None else node, "containers": containers, **(spec or {})}
        self.store.create(PODS, {"metadata": metadata, "spec": whole, "status": {"phase": "Running"}})

    def add_daemon_set(
        self,
        name: str,
        namespace: str,
        *,
        selects: Mapping[str, str],
        by_affinity: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """One that runs on nodes with the labels *selects*, told in its nodeSelector or as a node affinity."""
        spec: JsonObject = {"nodeSelector": dict(selects)}
        if by_affinity:
            wanted: list[JsonValue] = [{"key": k, "operator": "In", "values": [v]} for k, v in selects.items()]
            terms: JsonObject = {"nodeSelectorTerms": [{"matchExpressions": wanted}]}
            spec = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}
        template: JsonObject = {"metadata": {"labels": dict(labels or {"app": name})}, "spec": spec}
        metadata: JsonObject = {"name": name, "namespace": namespace}
        self.store.create(DAEMON_SETS, {"metadata": metadata, "spec": {"template": template}})

    def note_change(self, change: Change) -> None:
        """A listener of the store: the controllers' reaction to a write."""
        if change.kind in (NODES, DAEMON_SETS):
            self.follow_labels()
        if change.kind is PODS and change.after is None and change.before is not None:
            pod = change.before
            for hook in self.on_pod_end:
                hook(text(pod, "metadata", "namespace"), text(pod, "metadata", "name"))
            self.follow_labels()  # a DaemonSet's pod that ended is replaced where the set still wants one

    def follow_labels(self) -> None:
        """Each DaemonSet has one pod here, or none, as the node's labels ask for."""
        nodes, _ = self.store.select(Selector(NODES))
        labels = next((section(n, "metadata", "labels") for n in nodes if text(n, "metadata", "name") == self.node), {})
        for daemon_set in self.store.select(Selector(DAEMON_SETS))[0]:
            namespace = text(daemon_set, "metadata", "namespace")
            pods = [pod for pod in self.store.select(Selector(PODS, namespace))[0] if _is_owned_by(pod, daemon_set)]
            if not _selects(daemon_set).items() <= labels.items():
                for pod in pods:
                    self.delete_pod(namespace, text(pod, "metadata", "name"))
            elif not pods:
                self._start_pod_of(daemon_set)

    def delete_pod(self, namespace: str, name: str) -> None:
        """Ask the pod to end; it is terminating until it has."""
        with self.store.lock:
            pod = self.store.find(PODS, namespace, name)
            if text(pod, "metadata", "deletionTimestamp"):
                return
            metadata = section(pod, "metadata") | {"deletionTimestamp": CREATED_AT}
            self.store.replace(PODS, pod | {"metadata": metadata})
            if not self.pods_linger:
                self.end_pod(namespace, name)

    def end_pod(self, namespace: str, name: str) -> None:
        """Its containers have ended, and it is gone."""
        self.store.remove(PODS, namespace, name)

    def evict(self, namespace: str, name: str, uid: str) -> None:
        """Raises ApiError where the Eviction API refuses."""
        with self.store.lock:
            pod = self.store.find(PODS, namespace, name)
            if uid not in ("", text(pod, "metadata", "uid")):
                raise ApiError(409, f"the UID in the precondition ({uid}) does not match the UID in record")
            has_ended = text(pod, "status", "phase") in ("Succeeded", "Failed", "Pending")
            if not has_ended and not text(pod, "metadata", "deletionTimestamp"):
                self._take_from_budget(pod)
            self.delete_pod(namespace, name)

    def _take_from_budget(self, pod: JsonObject) -> None:
        match [budget for budget in self.budgets if budget.covers(pod)]:
            case []:
                return
            case [budget] if budget.allowed > 0:
                budget.allowed -= 1
            case [_]:
                cause: JsonValue = {"reason": "DisruptionBudget", "message": "The disruption budget needs all its pods"}
                why = "Cannot evict pod as it would violate the pod's disruption budget."
                raise ApiError(429, why, details={"causes": [cause]})
            case _:
                raise ApiError(
                    500,
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                )

    def _start_pod_of(self, daemon_set: JsonObject) -> None:
        self._made += 1
        name = text(daemon_set, "metadata", "name")
        template = section(daemon_set, "spec", "template")
        labels = {
            key: value for key, value in section(template, "metadata", "labels").items() if isinstance(value, str)
        }
        # The controller puts an affinity of its own, to the node's name, in the place of the template's; the
        # nodeSelector stays (pkg/controller/daemon/util, ReplaceDaemonSetPodNodeNameNodeAffinity).
        selector = section(template, "spec", "nodeSelector")
        self.add_pod(
            f"{name}-{self._made:05d}",
            text(daemon_set, "metadata", "namespace"),
            labels,
            owner={
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "name": name,
                "uid": text(daemon_set, "metadata", "uid"),
                "controller": True,
            },
            spec={"nodeSelector": selector} if selector else None,
        )


def _selects(daemon_set: JsonObject) -> dict[str, JsonValue]:
    spec = section(daemon_set, "spec", "template", "spec")
    wanted = dict(section(spec, "nodeSelector"))
    required = section(spec, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    terms = required.get("nodeSelectorTerms")
    for term in terms if isinstance(terms, list) else ():
        expressions = section(term).get("matchExpressions")
        for expression in expressions if isinstance(expressions, list) else ():
            values = section(expression).get("values")
            if isinstance(values, list) and values:
                wanted[text(expression, "key")] = values[0]
    return wanted


def _is_owned_by(pod: JsonObject, owner: JsonObject) -> bool:
    references = section(pod, "metadata").get("ownerReferences")
    uid = text(owner, "metadata", "uid")
    return any(text(one, "uid") == uid for one in (references if isinstance(references, list) else ()))
