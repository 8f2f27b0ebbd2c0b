"""The DevicePlugin service: what the kubelet asks, answered from the latest devices."""

import logging
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from device_plugin.allocate import PERMISSIONS, AllocatePolicy, DeviceUnavailable, Given, InvalidRequest, choose, give
from device_plugin.event_reasons import STILL_IN_USE
from device_plugin.inventory import Devices, label
from device_plugin.latest import Latest
from device_plugin.preference import prefer
from device_plugin.settings import WhenHeld
from device_plugin.streams import MAX_STREAMS, Streams
from device_plugin.tally import Tally
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginServicer
from nodelib.names import ResourceName
from nodelib.vfio import AssignableDevice

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.05


class PluginService(DevicePluginServicer):
    """Serves one resource; every call works on one immutable list of devices."""

    def __init__(
        self, resource: ResourceName, offer: Latest[Devices], streams: Streams, policy: AllocatePolicy, tally: Tally
    ) -> None:
        self._resource = resource
        self._offer = offer
        self._streams = streams
        self._policy = policy
        self._tally = tally
        self._ended = threading.Event()

    def close(self) -> None:
        """End the calls that wait: streams after their last list, allocations at once."""
        self._ended.set()
        self._offer.close()

    def GetDevicePluginOptions(  # noqa: N802 - the contract's name
        self,
        request: api.Empty,  # noqa: ARG002 - the contract's
        context: grpc.ServicerContext,  # noqa: ARG002 - the contract's
    ) -> api.DevicePluginOptions:
        return api.DevicePluginOptions(pre_start_required=False, get_preferred_allocation_available=True)

    def ListAndWatch(  # noqa: N802 - the contract's name
        self,
        request: api.Empty,  # noqa: ARG002 - the contract's
        context: grpc.ServicerContext,
    ) -> Iterator[api.ListAndWatchResponse]:
        number = self._streams.begin()
        if number is None:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams are open already")

        def ended() -> None:
            self._streams.end(number)
            self._offer.wake()

        if not context.add_callback(ended):  # the caller has gone already
            ended()
            return
        sent: api.ListAndWatchResponse | None = None
        for devices in self._offer.each(context.is_active):
            answer = device_list(devices)
            if answer != sent:  # what only Allocate cares about is no news for the kubelet
                sent = answer
                yield answer

    def GetPreferredAllocation(  # noqa: N802 - the contract's name
        self, request: api.PreferredAllocationRequest, context: grpc.ServicerContext
    ) -> api.PreferredAllocationResponse:
        devices = self._offer.value
        answer = api.PreferredAllocationResponse()
        try:
            for one in request.container_requests:
                ids = prefer(one.available_deviceIDs, one.must_include_deviceIDs, one.allocation_size, devices)
                answer.container_responses.add(deviceIDs=ids)
        except InvalidRequest as refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(refusal))
        return answer

    def Allocate(  # noqa: N802 - the contract's name
        self, request: api.AllocateRequest, context: grpc.ServicerContext
    ) -> api.AllocateResponse:
        begin = time.monotonic()
        try:
            containers = choose([one.devices_ids for one in request.container_requests], self._offer.value)
            held = self._wait_until_idle(containers, context.is_active)
        except (InvalidRequest, DeviceUnavailable) as refusal:
            log.warning("could not allocate %s: %s", self._resource, refusal)
            self._tally.allocated(self._resource, "refused", time.monotonic() - begin)
            invalid = isinstance(refusal, InvalidRequest)
            context.abort(grpc.StatusCode.INVALID_ARGUMENT if invalid else grpc.StatusCode.UNAVAILABLE, str(refusal))
        self._tally.allocated(self._resource, "held" if held else "allocated", time.monotonic() - begin)
        return api.AllocateResponse(
            container_responses=[_answer(give(devices, self._policy)) for devices in containers]
        )

    def PreStartContainer(  # noqa: N802 - the contract's name
        self,
        request: api.PreStartContainerRequest,  # noqa: ARG002 - the contract's
        context: grpc.ServicerContext,  # noqa: ARG002 - the contract's
    ) -> api.PreStartContainerResponse:
        """Never asked for, by our options; answered, so that who asks all the same gets no failure."""
        return api.PreStartContainerResponse()

    def _wait_until_idle(self, containers: tuple[Devices, ...], wanted: Callable[[], bool]) -> Devices:
        """The devices that are still held after the wait; it is one wait for all of them."""
        deadline = time.monotonic() + self._policy.busy_wait_s
        held = self._held(tuple(device for devices in containers for device in devices))
        while held and (left_s := deadline - time.monotonic()) > 0:
            if self._ended.wait(min(left_s, _LOOK_AGAIN_S)):
                raise DeviceUnavailable("the device plugin is stopping")
            if not wanted():
                raise DeviceUnavailable("who asked has gone")
            held = self._held(held)
        if held and self._policy.when_held is WhenHeld.FAIL:
            raise DeviceUnavailable(f"device {label(held[0])} is still in use by a virtual machine")
        for device in held:
            message = f"allocated {label(device)} although a virtual machine still has it open"
            log.warning("%s", message)
            self._policy.tell(STILL_IN_USE, message)
        return held

    def _held(self, devices: Devices) -> Devices:
        return tuple(device for device in devices if self._policy.is_held(device))


def device_list(devices: Devices) -> api.ListAndWatchResponse:
    """What the kubelet is told of *devices*: all of them, each time."""
    return api.ListAndWatchResponse(devices=[_listed(device) for device in devices])


def _listed(device: AssignableDevice) -> api.Device:
    health = "Healthy" if device.is_healthy else "Unhealthy"
    if device.numa_node is None:  # node 0 would be a promise that nobody made
        return api.Device(ID=device.id, health=health)
    return api.Device(ID=device.id, health=health, topology=api.TopologyInfo(nodes=[api.NUMANode(ID=device.numa_node)]))


def _answer(given: Given) -> api.ContainerAllocateResponse:
    return api.ContainerAllocateResponse(
        devices=[api.DeviceSpec(container_path=node, host_path=node, permissions=PERMISSIONS) for node in given.nodes],
        cdi_devices=[api.CDIDevice(name=name) for name in given.cdi_names],
        envs=given.environment,
    )
