"""Just enough of a device plugin to try the simulated kubelet with, and to see what it asks."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import grpc

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import (
    DevicePluginServicer,
    RegistrationStub,
    add_DevicePluginServicer_to_server,
)
from tests.fakes.kubelet import Kubelet

RESOURCE_NAME = "nvidia.com/pgpu"

Allocate: TypeAlias = Callable[[api.AllocateRequest], api.AllocateResponse]
Prefer: TypeAlias = Callable[[api.ContainerPreferredAllocationRequest], Sequence[str]]


def device(device_id: str, health: str = "Healthy", *, numa_node: int | None = None) -> api.Device:
    if numa_node is None:
        return api.Device(ID=device_id, health=health)
    topology = api.TopologyInfo(nodes=[api.NUMANode(ID=numa_node)])
    return api.Device(ID=device_id, health=health, topology=topology)


def allocate_all(request: api.AllocateRequest) -> api.AllocateResponse:
    """One response per container request: the VFIO nodes and the CDI names of its devices."""
    return api.AllocateResponse(
        container_responses=[
            api.ContainerAllocateResponse(
                devices=[
                    api.DeviceSpec(
                        container_path=f"/dev/vfio/{device_id}",
                        host_path=f"/dev/vfio/{device_id}",
                        permissions="rw",
                    )
                    for device_id in container.devices_ids
                ],
                cdi_devices=[
                    api.CDIDevice(
                        name=f"{RESOURCE_NAME}={device_id}",
                    )
                    for device_id in container.devices_ids
                ],
            )
            for container in request.container_requests
        ]
    )


def prefer_first(request: api.ContainerPreferredAllocationRequest) -> Sequence[str]:
    return request.available_deviceIDs[: request.allocation_size]


class MinimalPlugin(DevicePluginServicer):
    """Serves while its context lasts. What it answers can be replaced: *on_...* attributes."""

    def __init__(
        self,
        folder: Path,
        devices: Sequence[api.Device] = (),
        *,
        resource_name: str = RESOURCE_NAME,
        endpoint: str = "minimal.sock",
        preference: bool = False,
    ) -> None:
        self.resource_name = resource_name
        self.endpoint = endpoint
        self.events: list[str] = []
        self.allocate_requests: list[api.AllocateRequest] = []
        self.time_left_s: list[float] = []
        self.preference_requests: list[api.ContainerPreferredAllocationRequest] = []
        self.on_options: Callable[[], None] = lambda: None
        self.on_allocate: Allocate = allocate_all
        self.on_prefer: Prefer = prefer_first
        self._kubelet_socket = folder / "kubelet.sock"
        self._socket = folder / endpoint
        self._options = api.DevicePluginOptions(get_preferred_allocation_available=preference)
        self._changed = threading.Condition()
        self._devices = tuple(devices)
        self._generation = 0  # streams of an older one end
        self._closed = False
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="minimal-plugin")
        self._server = grpc.server(self._workers)
        add_DevicePluginServicer_to_server(self, self._server)

    def __enter__(self) -> Self:
        self._server.add_insecure_port(f"unix:{self._socket}")
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.stop(1).wait()
        self._workers.shutdown()

    def register(
        self,
        *,
        version: str = "v1beta1",
        resource_name: str | None = None,
        endpoint: str | None = None,
        options: api.DevicePluginOptions | None = None,
    ) -> None:
        with grpc.insecure_channel(
            f"unix:{self._kubelet_socket}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            RegistrationStub(channel).Register(
                api.RegisterRequest(
                    version=version,
                    endpoint=self.endpoint if endpoint is None else endpoint,
                    resource_name=self.resource_name if resource_name is None else resource_name,
                    options=options,
                ),
                timeout=20,
            )
        self._note("registered")

    def advertise(self, *devices: api.Device) -> None:
        with self._changed:
            self._devices = devices
            self._changed.notify_all()

    def end_streams(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def wait_for_event(self, event: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: event in self.events, 10):
                raise TimeoutError(f"no {event}, only {self.events}")

    @property
    def asked_ids(self) -> list[list[str]]:
        """Those of each container request to Allocate."""
        return [
            list(container.devices_ids)  # in the kubelet's order
            for request in self.allocate_requests
            for container in request.container_requests
        ]

    def GetDevicePluginOptions(  # noqa: N802 - the contract's name
        self, request: api.Empty, context: grpc.ServicerContext
    ) -> api.DevicePluginOptions:
        self._note("options")
        self.on_options()
        return self._options

    def ListAndWatch(  # noqa: N802 - the contract's name
        self, request: api.Empty, context: grpc.ServicerContext
    ) -> Iterator[api.ListAndWatchResponse]:
        self._note("stream")
        context.add_callback(self._wake)
        try:
            yield from self._device_lists(context)
        finally:  # grpc drops the generator between two answers when the kubelet has gone
            self._note("stream ended")

    def _device_lists(self, context: grpc.ServicerContext) -> Iterator[api.ListAndWatchResponse]:
        generation = self._generation
        sent: tuple[api.Device, ...] | None = None

        def wanted() -> bool:
            return not self._closed and self._generation == generation and context.is_active()

        while True:
            with self._changed:
                while wanted() and self._devices == sent:
                    self._changed.wait()
                if not wanted():
                    return
                sent = self._devices
            yield api.ListAndWatchResponse(devices=sent)

    def GetPreferredAllocation(  # noqa: N802 - the contract's name
        self, request: api.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> api.PreferredAllocationResponse:
        self.preference_requests.extend(request.container_requests)
        return api.PreferredAllocationResponse(
            container_responses=[
                api.ContainerPreferredAllocationResponse(deviceIDs=self.on_prefer(container))
                for container in request.container_requests
            ]
        )

    def Allocate(  # noqa: N802 - the contract's name
        self, request: api.AllocateRequest, context: grpc.ServicerContext
    ) -> api.AllocateResponse:
        self.allocate_requests.append(request)
        self.time_left_s.append(context.time_remaining())
        try:
            return self.on_allocate(request)
        except LookupError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def PreStartContainer(  # noqa: N802 - the contract's name
        self, request: api.PreStartContainerRequest, context: grpc.ServicerContext
    ) -> api.PreStartContainerResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not needed")

    def _note(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


@contextlib.contextmanager
def registered(
    kubelet: Kubelet,
    devices: Sequence[api.Device],
    *,
    resource_name: str = RESOURCE_NAME,
    preference: bool = False,
) -> Iterator[MinimalPlugin]:
    """A plugin whose devices the kubelet knows."""
    with MinimalPlugin(
        kubelet.plugin_folder,
        devices,
        resource_name=resource_name,
        endpoint=resource_name.replace("/", "_") + ".sock",
        preference=preference,
    ) as plugin:
        plugin.register()
        kubelet.wait_until(lambda: kubelet.allocatable(resource_name) == len(devices))
        yield plugin
