"""The kubelet's PodResources API over gRPC. Importing this imports grpc: see `nodelib.pod_resources` for who should."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import grpc

from nodelib.kubelet import podresources_v1_pb2 as api
from nodelib.kubelet.podresources_v1_pb2_grpc import PodResourcesListerStub
from nodelib.pod_resources import (
    TIMEOUT_S,
    GetDisabled,
    KubeletUnreachable,
    PodDevices,
    PodResourcesError,
    PodUnknown,
    offers_get,
)

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""A node with many pods answers with more than grpc's 4 MiB; as much as the kubelet's own clients take."""
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel waits for an earlier one's back-off to this address
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
)
_DISABLED = "Get method disabled"
"""The kubelet has no status code of its own for this: it is a plain error with this text (facts: contract, 1)."""
_FEATURE_GATE = "run Kubernetes 1.34 or later, or switch the kubelet's feature gate KubeletPodResourcesGet on"

Answer = TypeVar("Answer")


class PodResourcesClient:
    """Asks the kubelet at *socket*, as this process sees it, over a connection for each question."""

    def __init__(self, socket: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket
        self._timeout_s = timeout_s

    def list(self) -> tuple[PodDevices, ...]:
        answer = self._call(lambda stub, t: stub.List(api.ListPodResourcesRequest(), timeout=t))
        return _devices_of(answer.pod_resources)

    def get(self, namespace: str, pod: str) -> tuple[PodDevices, ...]:
        request = api.GetPodResourcesRequest(pod_name=pod, pod_namespace=namespace)
        answer = self._call(lambda stub, t: stub.Get(request, timeout=t))
        return _devices_of([answer.pod_resources])

    def offers_get(self) -> bool:
        return offers_get(self)

    def _call(self, ask: Callable[[PodResourcesListerStub, float], Answer]) -> Answer:
        self._look_for_socket()
        try:
            with grpc.insecure_channel(f"unix:{self._socket}", options=_OPTIONS) as channel:
                return ask(PodResourcesListerStub(channel), self._timeout_s)
        except grpc.RpcError as error:
            raise self._explained(error) from error

    def _look_for_socket(self) -> None:
        """grpc's own words for this are longer and say less."""
        try:
            is_socket = self._socket.is_socket()
        except PermissionError as error:
            raise KubeletUnreachable(
                f"may not look at {self._socket}: run as root, as the kubelet's folder asks"
            ) from error
        if not is_socket:
            raise KubeletUnreachable(
                f"there is no socket {self._socket}: is this a node with a kubelet, and is that folder mounted?"
            )

    def _explained(self, error: grpc.RpcError) -> PodResourcesError:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
        said = (error.details() if isinstance(error, grpc.Call) else str(error)) or code.name
        match code:
            case grpc.StatusCode.UNAVAILABLE:
                reason = said.rpartition(": ")[2]  # grpc's account of how it tried, then the kernel's word
                return KubeletUnreachable(
                    f"the kubelet does not answer on {self._socket} ({reason}); "
                    "look at the kubelet, and whether this agent may write to that socket"
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return KubeletUnreachable(
                    f"the kubelet did not answer on {self._socket} within {self._timeout_s:g} s; look at its log"
                )
            case grpc.StatusCode.NOT_FOUND:
                return PodUnknown(f"the kubelet does not know the pod: {said}")
            case grpc.StatusCode.UNIMPLEMENTED:
                return GetDisabled(f"the kubelet's PodResources API does not know this call; {_FEATURE_GATE}")
            case grpc.StatusCode.UNKNOWN if _DISABLED in said:
                return GetDisabled(f"the kubelet's PodResources API has Get switched off; {_FEATURE_GATE}")
            case _:
                return PodResourcesError(f"the kubelet's PodResources API refused: {said}; look at the kubelet's log")


def _devices_of(pods: Iterable[api.PodResources]) -> tuple[PodDevices, ...]:
    """One value a container and resource: the kubelet lists each device by itself, or those of one NUMA node."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for pod in pods:
        for container in pod.containers:
            for devices in container.devices:
                key = (pod.namespace, pod.name, container.name, devices.resource_name)
                found.setdefault(key, []).extend(devices.device_ids)
    return tuple(sorted(PodDevices(*key, tuple(dict.fromkeys(ids))) for key, ids in found.items()))
