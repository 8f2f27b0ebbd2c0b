"""The simulated kubelet's PodResources service: which pod has which devices."""

from collections.abc import Callable, Iterable

import grpc

from nodelib.kubelet import podresources_v1_pb2 as api
from nodelib.kubelet.podresources_v1_pb2_grpc import PodResourcesListerServicer
from tests.fakes.kubelet.plugins import Plugins
from tests.fakes.kubelet.pods import Pods
from tests.fakes.kubelet.values import PluginDevice, PodAllocation


class PodResourcesLister(PodResourcesListerServicer):
    def __init__(self, plugins: Plugins, pods: Pods, get_is_enabled: Callable[[], bool]) -> None:
        self._plugins = plugins
        self._pods = pods
        self._get_is_enabled = get_is_enabled

    def List(  # noqa: N802 - the contract's name
        self, request: api.ListPodResourcesRequest, context: grpc.ServicerContext
    ) -> api.ListPodResourcesResponse:
        pods = [pod_resources(pod) for pod in self._pods.all()]
        return api.ListPodResourcesResponse(pod_resources=pods)

    def GetAllocatableResources(  # noqa: N802 - the contract's name
        self, request: api.AllocatableResourcesRequest, context: grpc.ServicerContext
    ) -> api.AllocatableResourcesResponse:
        return api.AllocatableResourcesResponse(
            devices=[
                device
                for name in self._plugins.resource_names()
                for device in container_devices(
                    name,
                    (device for device in self._plugins.devices(name).values() if device.healthy),
                )
            ]
        )

    def Get(  # noqa: N802 - the contract's name
        self, request: api.GetPodResourcesRequest, context: grpc.ServicerContext
    ) -> api.GetPodResourcesResponse:
        if not self._get_is_enabled():
            # The message that Kata's users see while the feature gate KubeletPodResourcesGet is
            # off (facts/kubelet-cdi-kata-contract.md); a plain Go error, hence UNKNOWN.
            context.abort(grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled")
        pod = self._pods.pod(request.pod_name, request.pod_namespace)
        if pod is None:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"pod {request.pod_name} in namespace {request.pod_namespace} not found",
            )
        return api.GetPodResourcesResponse(pod_resources=pod_resources(pod))


def pod_resources(pod: PodAllocation) -> api.PodResources:
    devices: list[api.ContainerDevices] = []
    for resource in pod.resources:
        devices.extend(container_devices(resource.resource_name, resource.devices))
    return api.PodResources(
        name=pod.name,
        namespace=pod.namespace,
        containers=[api.ContainerResources(name="main", devices=devices)],
    )


def container_devices(
    resource_name: str,
    devices: Iterable[PluginDevice],
) -> list[api.ContainerDevices]:
    """One entry a device, as the kubelet lists them, because each has its own NUMA nodes."""
    return [
        api.ContainerDevices(
            resource_name=resource_name,
            device_ids=[device.id],
            topology=topology(device),
        )
        for device in devices
    ]


def topology(device: PluginDevice) -> api.TopologyInfo | None:
    if not device.numa_nodes:
        return None
    return api.TopologyInfo(nodes=[api.NUMANode(ID=node) for node in device.numa_nodes])
