"""A simulated kubelet: its real gRPC services on real unix sockets, and knobs that make it fail."""

import contextlib
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import add_RegistrationServicer_to_server
from nodelib.kubelet.podresources_v1_pb2_grpc import add_PodResourcesListerServicer_to_server
from tests.fakes.kubelet.checkpoint import read_checkpoint, write_checkpoint
from tests.fakes.kubelet.plugins import Plugins
from tests.fakes.kubelet.pod_resources import PodResourcesLister
from tests.fakes.kubelet.pods import Pods
from tests.fakes.kubelet.values import PluginDevice, PodAllocation, Refusal, Registration

SOCKET_NAME = "kubelet.sock"
# Each registration keeps a worker until the plugin has answered the call back.
SERVER_WORKERS = 16
# Only for calls that ignore their connection's end; all others are over before the server stops.
STOP_GRACE_S = 1.0


class Kubelet:
    """Starts with the context, or with start(); registrations and complaints outlive restarts.

    *versions* are the API versions that it speaks. While *pod_resources_get_enabled* is False it
    answers Get as a kubelet does whose feature gate KubeletPodResourcesGet is off.
    """

    def __init__(
        self,
        plugin_folder: Path,
        pod_resources_folder: Path,
        *,
        versions: tuple[str, ...] = ("v1beta1",),
        callback_timeout_s: float = 10.0,
    ) -> None:
        self.plugin_folder = plugin_folder
        self.pod_resources_folder = pod_resources_folder
        self.pod_resources_get_enabled = True
        self._changed = threading.Condition()
        self._servers = contextlib.ExitStack()
        self._plugins = Plugins(
            plugin_folder,
            self._changed,
            versions=versions,
            callback_timeout_s=callback_timeout_s,
            save=self._save,
        )
        self._pods = Pods(self._plugins, self._changed, self._save)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def kubelet_socket(self) -> Path:
        return self.plugin_folder / SOCKET_NAME

    @property
    def pod_resources_socket(self) -> Path:
        return self.pod_resources_folder / SOCKET_NAME

    def start(self) -> None:
        if self._plugins.running:
            raise RuntimeError("the kubelet runs already")
        self.plugin_folder.mkdir(parents=True, exist_ok=True)
        self.pod_resources_folder.mkdir(parents=True, exist_ok=True)
        remove_sockets(self.plugin_folder)
        resource_names, pods = read_checkpoint(self.plugin_folder)
        self._pods.restore(pods)
        self._plugins.start(resource_names)
        try:
            self._servers.enter_context(
                serve(
                    self.kubelet_socket,
                    lambda server: add_RegistrationServicer_to_server(self._plugins, server),
                )
            )
            lister = PodResourcesLister(
                self._plugins,
                self._pods,
                lambda: self.pod_resources_get_enabled,
            )
            self._servers.enter_context(
                serve(
                    self.pod_resources_socket,
                    lambda server: add_PodResourcesListerServicer_to_server(lister, server),
                )
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        # The connections first: they end the calls that the servers would wait for.
        self._plugins.disconnect_all()
        self._servers.close()
        self._plugins.forget_all()
        self._pods.restore([])

    def restart(self, gap_s: float = 0.0) -> None:
        self.stop()
        time.sleep(gap_s)
        self.start()

    def capacity(self, resource_name: str) -> int:
        return len(self.devices(resource_name))

    def allocatable(self, resource_name: str) -> int:
        return sum(device.healthy for device in self.devices(resource_name).values())

    def devices(self, resource_name: str) -> dict[str, PluginDevice]:
        return self._plugins.devices(resource_name)

    @property
    def resource_names(self) -> tuple[str, ...]:
        """All resources that the node shows, those without devices too."""
        return self._plugins.resource_names()

    @property
    def registrations(self) -> list[Registration]:
        with self._changed:
            return list(self._plugins.registrations)

    @property
    def refusals(self) -> list[Refusal]:
        with self._changed:
            return list(self._plugins.refusals)

    @property
    def complaints(self) -> list[str]:
        """What plugins sent that a kubelet would stumble over, or silently correct."""
        with self._changed:
            return list(self._plugins.complaints)

    @property
    def pods(self) -> tuple[PodAllocation, ...]:
        return self._pods.all()

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Waits for something about this kubelet: *predicate* is asked at each of its changes."""
        with self._changed:
            if not self._changed.wait_for(predicate, timeout_s):
                raise TimeoutError(f"not within {timeout_s} s; the kubelet has {self._summary()}")

    def refuse_registrations(
        self,
        code: grpc.StatusCode,
        message: str = "refused on purpose",
        *,
        count: int | None = None,
    ) -> None:
        """The next *count* registrations, or all until accept_registrations()."""
        self._plugins.refuse_next(code, message, count)

    def accept_registrations(self) -> None:
        self._plugins.accept_again()

    def withhold_streams(self, count: int) -> None:
        """Answers the next *count* registrations and then never calls ListAndWatch."""
        self._plugins.withhold_streams(count)

    def disconnect(self, resource_name: str) -> None:
        """Ends the connection to the plugin that registered last, as after a stream's end."""
        self._plugins.disconnect(resource_name)

    def remove_lost_resources(self) -> None:
        """What a kubelet does five minutes after it lost a plugin."""
        self._plugins.remove_lost()

    def admit_pod(
        self,
        name: str,
        namespace: str = "default",
        *,
        requests: Mapping[str, int],
        numa_nodes: Collection[int] | None = None,
    ) -> PodAllocation:
        """Raises AdmissionError, and then nothing is allocated."""
        return self._pods.admit(name, namespace, requests, numa_nodes)

    def delete_pod(self, name: str, namespace: str = "default") -> None:
        self._pods.delete(name, namespace)

    def _save(self) -> None:
        registered = {name: self.devices(name) for name in self.resource_names}
        write_checkpoint(self.plugin_folder, registered, self.pods)

    def _share(self, resource_name: str) -> str:
        return f"{resource_name} {self.allocatable(resource_name)}/{self.capacity(resource_name)}"

    def _summary(self) -> str:
        resources = ", ".join(map(self._share, self.resource_names))
        return (
            f"{resources or 'no resources'}, {len(self.registrations)} registrations, "
            f"{len(self.refusals)} refusals, {len(self.pods)} pods, complaints {self.complaints}"
        )


def remove_sockets(folder: Path) -> None:
    """What a starting kubelet does to the plugin folder; its checkpoint file stays."""
    for path in folder.iterdir():
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


@contextlib.contextmanager
def serve(socket: Path, add_service: Callable[[grpc.Server], None]) -> Iterator[None]:
    with ThreadPoolExecutor(SERVER_WORKERS, thread_name_prefix="kubelet-serves") as workers:
        server = grpc.server(workers)
        add_service(server)
        # Binding makes a new inode, and removes a socket that is in the way.
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        try:
            yield
        finally:
            server.stop(STOP_GRACE_S).wait()
            socket.unlink(missing_ok=True)
