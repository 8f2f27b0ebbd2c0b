"""The pods of this node in the API server: listed, watched until they are gone, evicted; and their DaemonSets.

What may not be done is remembered and told once: the rights are optional, and an installation may not give them.
"""

import logging
from collections.abc import Callable, Iterable

from cc_manager.clock import Clock
from cc_manager.cluster.operand_pods import DaemonSet, Pod, parse_daemon_set, parse_pod
from nodelib.kube import UNREACHABLE, ApiError, Json, Kube

log = logging.getLogger(__name__)

FORBIDDEN = 403
_GONE = 404
_WATCH_S = 3.0
"""Of one watch: whoever is told to stop while pods end must not wait for the server."""
_AGAIN_S = 1.0

Chooser = Callable[[Iterable[Pod]], tuple[Pod, ...]]
"""Which of the pods are meant."""


class KubePods:
    """The pods on *node_name*, and the installation's own in *namespace*."""

    def __init__(self, kube: Kube, node_name: str, namespace: str, clock: Clock | None = None) -> None:
        self._kube = kube
        self._namespace = namespace
        self._clock = clock or Clock()
        self._here = {"fieldSelector": f"spec.nodeName={node_name}"}
        self._forbidden: set[str] = set()

    @property
    def namespace(self) -> str:
        return self._namespace

    def find(self, namespace: str, name: str) -> Pod:
        """The pod as the API server has it on this node; without a uid where it is not known or may not be asked for.

        Raises ApiError. One pod is listed by its name: all those of a node would be megabytes.
        """
        query = {"fieldSelector": f"metadata.name={name},{self._here['fieldSelector']}"}
        try:
            found = _pods(self._kube.get(f"/api/v1/namespaces/{namespace}/pods", query))
        except ApiError as error:
            self._note_forbidden(error, "the kubelet's word alone counts for which pods are alive")
            return Pod(namespace, name)
        return found[0] if found else Pod(namespace, name)

    def of_installation(self) -> tuple[Pod, ...]:
        """The pods on the node in the installation's namespace. Raises ApiError, also where they may not be listed."""
        return _pods(self._kube.get(self._path, self._here))

    def daemon_sets(self) -> tuple[DaemonSet, ...]:
        """The installation's DaemonSets; none where they may not be listed. Raises ApiError."""
        try:
            answer = self._kube.get(f"/apis/apps/v1/namespaces/{self._namespace}/daemonsets")
        except ApiError as error:
            self._note_forbidden(error, "operands are known by the labels and node selectors of their pods")
            return ()
        return tuple(parse_daemon_set(item) for item in _items(answer))

    def evict(self, pod: Pod) -> str:
        """Ask for *pod* to be evicted; the server's reason if it does not do so now, empty if the pod is on its way.

        Raises ApiError if that is forbidden.
        """
        metadata = {"name": pod.name, "namespace": pod.namespace}
        options = {"deleteOptions": {"preconditions": {"uid": pod.uid}}} if pod.uid else {}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, **options}
        try:
            self._kube.post(f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}/eviction", body)
        except ApiError as error:
            if error.status == FORBIDDEN:
                raise
            # 404: it went by itself. A budget answers 429; whatever else it is may pass, and the deadline ends it.
            return "" if error.status == _GONE else str(error)
        return ""

    def wait_until_gone(self, chosen: Chooser, timeout_s: float, stopped: Callable[[], bool]) -> tuple[Pod, ...]:
        """Follow the installation's pods by a watch until none of the *chosen* is left; those left at the end."""
        deadline = self._clock.monotonic() + timeout_s
        told: set[str] = set()
        left = chosen(self.of_installation())
        while left and not stopped() and self._clock.monotonic() < deadline:
            try:
                left = self._follow(chosen, min(_WATCH_S, deadline - self._clock.monotonic()))
            except ApiError as error:
                pause_s = error.retry_after_s or _AGAIN_S
                if str(error) not in told:
                    told.add(str(error))
                    log.warning("%s; the pods are listed every %g s", error, pause_s)
                self._clock.sleep(pause_s)
        return left

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods"

    def _follow(self, chosen: Chooser, timeout_s: float) -> tuple[Pod, ...]:
        """List, then watch for at most *timeout_s*; the *chosen* that are left."""
        listed = self._kube.get(self._path, self._here)
        pods = {str(pod): pod for pod in _pods(listed)}
        if not (left := chosen(pods.values())):
            return ()
        metadata = listed.get("metadata")
        version = metadata.get("resourceVersion", "") if isinstance(metadata, dict) else ""
        query = {**self._here, "resourceVersion": str(version)}
        with self._kube.watch(self._path, query, max(1.0, timeout_s)) as events:
            for event in events:
                _take(event, pods)
                if not (left := chosen(pods.values())):
                    return ()
        return left

    def _note_forbidden(self, error: ApiError, instead: str) -> None:
        """Raises *error* again unless it is a missing right, which is told once."""
        if error.status != FORBIDDEN:
            raise error
        if instead not in self._forbidden:
            self._forbidden.add(instead)
            log.warning("%s; %s", error, instead)


def _take(event: Json, pods: dict[str, Pod]) -> None:
    """Bring *pods* up to date with one event of a watch. Raises ApiError for one that ends the watch."""
    item = event.get("object")
    if event.get("type") == "ERROR" or not isinstance(item, dict):
        said = item.get("message") if isinstance(item, dict) else None
        raise ApiError(UNREACHABLE, f"the watch of pods ended ({said or 'no reason given'})")
    if event.get("type") == "BOOKMARK":
        return
    pod = parse_pod(item)
    if event.get("type") == "DELETED":
        pods.pop(str(pod), None)
    else:
        pods[str(pod)] = pod


def _pods(answer: Json) -> tuple[Pod, ...]:
    return tuple(parse_pod(item) for item in _items(answer))


def _items(answer: Json) -> list[object]:
    items = answer.get("items")
    if not isinstance(items, list):
        raise ApiError(UNREACHABLE, "the API server answered a list without items")
    return items
