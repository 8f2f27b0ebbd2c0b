"""What the simulated kubelet tells a test: frozen values, and the error that ends a pod."""

from dataclasses import dataclass

import grpc

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api


@dataclass(frozen=True, slots=True)
class PluginDevice:
    id: str
    healthy: bool
    numa_nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PluginOptions:
    pre_start_required: bool = False
    get_preferred_allocation_available: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration that the kubelet answered; *options* are those the plugin gave when asked."""

    at_s: float  # time.monotonic(), which every process of one boot shares
    resource_name: str
    endpoint: str
    options: PluginOptions


@dataclass(frozen=True, slots=True)
class Refusal:
    at_s: float
    resource_name: str
    endpoint: str
    code: grpc.StatusCode
    message: str


@dataclass(frozen=True, slots=True)
class ResourceAllocation:
    resource_name: str
    devices: tuple[PluginDevice, ...]  # as they were when they were given away
    response: api.ContainerAllocateResponse

    @property
    def device_ids(self) -> tuple[str, ...]:
        return tuple(device.id for device in self.devices)


@dataclass(frozen=True, slots=True)
class PodAllocation:
    name: str
    namespace: str
    resources: tuple[ResourceAllocation, ...]

    def device_ids(self, resource_name: str) -> tuple[str, ...]:
        return tuple(
            device_id
            for resource in self.resources
            if resource.resource_name == resource_name
            for device_id in resource.device_ids
        )

    @property
    def device_specs(self) -> tuple[api.DeviceSpec, ...]:
        return tuple(spec for resource in self.resources for spec in resource.response.devices)

    @property
    def cdi_names(self) -> tuple[str, ...]:
        responses = [resource.response for resource in self.resources]
        return tuple(device.name for response in responses for device in response.cdi_devices)

    @property
    def envs(self) -> dict[str, str]:
        envs: dict[str, str] = {}
        for resource in self.resources:
            envs.update(resource.response.envs)
        return envs


class AdmissionError(Exception):
    """Ends a pod: *code* is the plugin's gRPC status, None where the kubelet itself said no."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code
