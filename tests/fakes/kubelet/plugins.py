"""How the simulated kubelet meets plugins: registration, the call back, and the device streams."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub, RegistrationServicer
from tests.fakes.kubelet.checks import device_list_problems, registration_problem
from tests.fakes.kubelet.values import PluginDevice, PluginOptions, Refusal, Registration


class RegistrationRefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PluginClient:
    """One plugin as the kubelet has dialled it."""

    def __init__(self, resource_name: str, socket: Path) -> None:
        self.resource_name = resource_name
        self.stopped = False
        self.options = PluginOptions()
        # grpc shares connections to one address, and their back-off, among the channels of a
        # process; a real kubelet dials anew for each registration.
        self._channel = grpc.insecure_channel(
            f"unix:{socket}",
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        self.stub = DevicePluginStub(self._channel)

    def ask_options(self, timeout_s: float) -> None:
        # Like the kubelet's blocking dial, this retries until the deadline while nobody listens.
        options = self.stub.GetDevicePluginOptions(
            api.Empty(),
            timeout=timeout_s,
            wait_for_ready=True,
        )
        self.options = PluginOptions(
            options.pre_start_required,
            options.get_preferred_allocation_available,
        )

    def close(self) -> None:
        """Ends every call that is under way, the stream among them."""
        self._channel.close()


class Plugins(RegistrationServicer):
    """Guarded by the kubelet's one condition, which is told of every change."""

    def __init__(
        self,
        folder: Path,
        changed: threading.Condition,
        *,
        versions: tuple[str, ...],
        callback_timeout_s: float,
        save: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._changed = changed
        self._versions = versions
        self._callback_timeout_s = callback_timeout_s
        self._save = save
        self.running = False
        # The kubelet keeps two books under a resource's name: the client that registered last, and
        # the endpoint that answered the call back last. A stream's end looks in the first.
        self._clients: dict[str, PluginClient] = {}
        self._endpoints: dict[str, PluginClient] = {}
        self._devices: dict[str, dict[str, PluginDevice]] = {}
        self._open: set[PluginClient] = set()
        self._watchers: list[threading.Thread] = []
        self._refuse: tuple[grpc.StatusCode, str] | None = None
        self._refusals_left: int | None = None
        self._streams_to_withhold = 0
        self.registrations: list[Registration] = []
        self.refusals: list[Refusal] = []
        self.complaints: list[str] = []

    def start(self, resource_names: list[str]) -> None:
        """*resource_names* come from the checkpoint: known, and without devices for now."""
        with self._changed:
            self._devices = {name: {} for name in resource_names}
            self.running = True
            self._changed.notify_all()

    def disconnect_all(self) -> None:
        with self._changed:
            self.running = False
            clients = list(self._open)
        for client in clients:
            client.close()

    def forget_all(self) -> None:
        """Call it after the server has stopped: no new stream can begin then."""
        for watcher in self._watchers:
            watcher.join()
        with self._changed:
            self._watchers.clear()
            self._open.clear()
            self._clients.clear()
            self._endpoints.clear()
            self._devices.clear()
            self._changed.notify_all()

    def refuse_next(self, code: grpc.StatusCode, message: str, count: int | None) -> None:
        with self._changed:
            self._refuse = (code, message)
            self._refusals_left = count

    def accept_again(self) -> None:
        with self._changed:
            self._refuse = None

    def withhold_streams(self, count: int) -> None:
        with self._changed:
            self._streams_to_withhold = count

    def disconnect(self, resource_name: str) -> None:
        with self._changed:
            client = self._clients[resource_name]
        client.close()

    def devices(self, resource_name: str) -> dict[str, PluginDevice]:
        with self._changed:
            return dict(self._devices.get(resource_name, {}))

    def resource_names(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(sorted(self._devices))

    def endpoint(self, resource_name: str) -> PluginClient | None:
        with self._changed:
            return self._endpoints.get(resource_name)

    def complain(self, problem: str) -> None:
        """Once for each problem: a plugin sends its faulty list again at every change."""
        with self._changed:
            if problem not in self.complaints:
                self.complaints.append(problem)

    def remove_lost(self) -> None:
        with self._changed:
            for name in list(self._devices):
                endpoint = self._endpoints.get(name)
                if endpoint is None or endpoint.stopped:
                    del self._devices[name]
                    self._endpoints.pop(name, None)
            self._save()
            self._changed.notify_all()

    def Register(  # noqa: N802 - the contract's name
        self, request: api.RegisterRequest, context: grpc.ServicerContext
    ) -> api.Empty:
        try:
            client = self._accept(request)
        except RegistrationRefusedError as refusal:
            with self._changed:
                self.refusals.append(
                    Refusal(
                        time.monotonic(),
                        request.resource_name,
                        request.endpoint,
                        refusal.code,
                        str(refusal),
                    )
                )
                self._changed.notify_all()
            context.abort(refusal.code, str(refusal))
        # ListAndWatch begins after Register is answered, and begins too if nobody waits for the
        # answer any more.
        if not context.add_callback(lambda: self._begin_watching(client)):
            self._begin_watching(client)
        return api.Empty()

    def _accept(self, request: api.RegisterRequest) -> PluginClient:
        # The kubelet returns plain Go errors here, which gRPC sends as UNKNOWN.
        if problem := registration_problem(request, self._versions):
            raise RegistrationRefusedError(grpc.StatusCode.UNKNOWN, problem)
        client = self._dial(request)
        try:
            client.ask_options(self._callback_timeout_s)
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed before the call began
            with self._changed:
                self._clients.pop(client.resource_name, None)
                self._open.discard(client)
            client.close()
            reason = error.details() if isinstance(error, grpc.RpcError) else str(error)
            raise RegistrationRefusedError(
                grpc.StatusCode.UNKNOWN, f"failed to get device plugin options: {reason}"
            ) from error
        with self._changed:
            self._endpoints[client.resource_name] = client
            self.registrations.append(
                Registration(
                    time.monotonic(),
                    client.resource_name,
                    request.endpoint,
                    client.options,
                )
            )
            self._changed.notify_all()
        return client

    def _dial(self, request: api.RegisterRequest) -> PluginClient:
        with self._changed:
            self._refuse_if_told_to()
            if not self.running:
                raise RegistrationRefusedError(grpc.StatusCode.UNAVAILABLE, "the kubelet stops")
            client = PluginClient(request.resource_name, self._folder / request.endpoint)
            self._open.add(client)
            self._clients[client.resource_name] = client
            return client

    def _refuse_if_told_to(self) -> None:
        if self._refuse is None:
            return
        code, message = self._refuse
        if self._refusals_left is not None:
            self._refusals_left -= 1
            if self._refusals_left <= 0:
                self._refuse = None
        raise RegistrationRefusedError(code, message)

    def _begin_watching(self, client: PluginClient) -> None:
        watcher = threading.Thread(
            target=self._watch,
            args=(client,),
            name=f"kubelet-watches-{client.resource_name}",
        )
        with self._changed:
            if not self.running:
                return
            if self._streams_to_withhold > 0:
                self._streams_to_withhold -= 1
                return
            self._watchers = [thread for thread in self._watchers if thread.is_alive()]
            self._watchers.append(watcher)
            watcher.start()

    def _watch(self, client: PluginClient) -> None:
        try:
            for response in client.stub.ListAndWatch(api.Empty()):
                self._receive(client.resource_name, response)
        except (grpc.RpcError, ValueError):
            # However a stream ends, it is the plugin's death. grpc says ValueError when the channel
            # was closed before the call began.
            pass
        finally:
            self._end(client)

    def _receive(self, resource_name: str, response: api.ListAndWatchResponse) -> None:
        with self._changed:
            if not self.running:
                return
            for problem in device_list_problems(resource_name, response.devices):
                self.complain(problem)
            self._devices[resource_name] = {
                device.ID: PluginDevice(
                    device.ID,
                    device.health == "Healthy",
                    tuple(node.ID for node in device.topology.nodes),
                )
                for device in response.devices
            }
            self._save()
            self._changed.notify_all()

    def _end(self, client: PluginClient) -> None:
        with self._changed:
            self._open.discard(client)
            if not self.running:
                return
            # Whatever client is registered under the name now, be it a younger one: the reason why
            # a plugin ends its old stream first (facts/kubelet-cdi-kata-contract.md).
            dropped = self._clients.pop(client.resource_name, None)
            endpoint = self._endpoints.get(client.resource_name)
            if dropped is not None and endpoint is not None:
                endpoint.stopped = True
                devices = self._devices.get(client.resource_name, {})
                self._devices[client.resource_name] = {
                    device.id: replace(device, healthy=False) for device in devices.values()
                }
            self._changed.notify_all()
        client.close()
        if dropped is not None:
            dropped.close()
