"""One resource's gRPC server: its life from the socket to the last stream, and its registration."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from device_plugin.allocate import AllocatePolicy
from device_plugin.endpoint import endpoint_path, move_into_place, temporary_path
from device_plugin.inventory import Devices
from device_plugin.kubelet import CHANNEL_OPTIONS, Registering, Request
from device_plugin.latest import Latest
from device_plugin.plan import KubeletId, ObservedServer, Registration
from device_plugin.service import PluginService
from device_plugin.streams import Streams
from device_plugin.tally import Tally
from nodelib.errors import NodeError
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub, add_DevicePluginServicer_to_server
from nodelib.names import ResourceName

WORKERS = 8
"""Streams keep one each; the rest is for Allocate, which may wait."""
PROOF_TIMEOUT_S = 2.0
STOP_GRACE_S = 1.0
SHORT_LIFE_S = 5.0
"""A stream that ended sooner was a failure: the next registration waits longer before it tries."""


class ResourceServer:
    """Serves one resource on a socket in the kubelet's folder; for one thread, except what its calls do."""

    def __init__(
        self,
        resource: ResourceName,
        kubelet_socket: Path,
        policy: AllocatePolicy,
        tally: Tally,
        wake: Callable[[str], None],
        *,
        stream_wait_s: float,
    ) -> None:
        self.resource = resource
        self._kubelet_socket = kubelet_socket
        self._tally = tally
        self._wake = wake
        self._stream_wait_s = stream_wait_s
        self._offer: Latest[Devices] = Latest(())
        self._streams = Streams(lambda what: wake(f"{resource}: {what}"))
        self._service = PluginService(resource, self._offer, self._streams, policy, tally)
        self._registering: Registering | None = None
        self._short_lives = 0

    def start(self, devices: Devices) -> None:
        """Serve *devices*, and make sure that the socket answers. Raises NodeError; nothing is left behind then."""
        folder = self._kubelet_socket.parent
        path = endpoint_path(folder, self.resource)
        self._offer.set(devices)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix=f"serve {self.resource}")
        self._server = grpc.server(self._workers)
        add_DevicePluginServicer_to_server(self._service, self._server)
        temporary = temporary_path(folder)
        try:
            self._server.add_insecure_port(f"unix:{temporary}")
            self._server.start()
            self._endpoint = move_into_place(temporary, path)
        except RuntimeError as error:
            self._end_server()
            raise NodeError(f"cannot make a socket in {folder}: is it writable for this agent?") from error
        except NodeError:
            self._end_server()
            raise
        try:
            _prove(path)
        except NodeError:
            self.begin_stop()
            self.finish_stop()
            raise

    def publish(self, devices: Devices) -> None:
        self._offer.set(devices)

    def register(self, kubelet: KubeletId) -> None:
        """Begin to register with *kubelet*; what comes of it is seen by `observe`."""
        failures = self._note_short_life()
        self._cancel_registering()
        request = Request(self._kubelet_socket, kubelet, self.resource, self._endpoint.path.name)
        self._registering = Registering(
            request, self._answered, failures=failures, before_asking=self._streams.expect_kubelet
        )
        self._registering.start()

    def observe(self) -> ObservedServer:
        return ObservedServer(
            self.resource,
            self._offer.value,
            self._endpoint.is_in_place(),
            self._registration(),
            self._registering.request.kubelet if self._registering else None,
        )

    @property
    def problem(self) -> str:
        """Why the kubelet has not accepted it yet, if it said."""
        return self._registering.problem if self._registering else ""

    def begin_stop(self) -> None:
        """End everything that waits; `finish_stop` must follow."""
        self._cancel_registering()
        self._service.close()
        self._ended = self._server.stop(STOP_GRACE_S)

    def finish_stop(self) -> None:
        """Wait for the streams' end, then take the socket away: whoever takes our place must not lose its own client
        to the end of our stream."""
        self._ended.wait(STOP_GRACE_S + 0.5)
        self._endpoint.remove()
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _registration(self) -> Registration:
        registering = self._registering
        if registering is None:
            return Registration.NONE
        if registering.accepted_at is None:
            return Registration.UNDER_WAY
        stream = self._streams.kubelets
        if stream.began:
            return Registration.LOST if stream.ended else Registration.STREAMING
        overdue = time.monotonic() - registering.accepted_at > self._stream_wait_s
        return Registration.LOST if overdue else Registration.ACCEPTED

    def _answered(self, result: str) -> None:
        self._tally.registered(self.resource, result)
        self._wake(f"{self.resource}: registration {result}")

    def _note_short_life(self) -> int:
        if self._registering is None:
            return 0
        lived_s = self._streams.kubelets.lived_s
        self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 0
        return self._short_lives

    def _cancel_registering(self) -> None:
        if self._registering is not None:
            self._registering.cancel()
            self._registering.join(STOP_GRACE_S)

    def _end_server(self) -> None:
        self._service.close()
        self._server.stop(None).wait(STOP_GRACE_S)
        self._workers.shutdown(wait=False, cancel_futures=True)


def _prove(path: Path) -> None:
    """Call our own socket as the kubelet will; it calls back before it accepts a registration."""
    with grpc.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS) as channel:
        try:
            DevicePluginStub(channel).GetDevicePluginOptions(api.Empty(), timeout=PROOF_TIMEOUT_S)
        except grpc.RpcError as error:
            raise NodeError(f"our own socket {path} does not answer") from error
