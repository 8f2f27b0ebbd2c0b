"""How the simulated kubelet admits pods: picks devices, asks the plugin, and remembers."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

import grpc

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from tests.fakes.kubelet.checks import allocation_problems, preference_problems
from tests.fakes.kubelet.plugins import PluginClient, Plugins
from tests.fakes.kubelet.values import (
    AdmissionError,
    PluginDevice,
    PodAllocation,
    ResourceAllocation,
)


class Pods:
    def __init__(
        self,
        plugins: Plugins,
        changed: threading.Condition,
        save: Callable[[], None],
    ) -> None:
        self._plugins = plugins
        self._changed = changed
        self._save = save
        # Pods are admitted one after the other: a slow Allocate holds up every pod of the node.
        self._admission = threading.Lock()
        self._pods: dict[tuple[str, str], PodAllocation] = {}

    def restore(self, pods: Sequence[PodAllocation]) -> None:
        with self._changed:
            self._pods = {(pod.namespace, pod.name): pod for pod in pods}
            self._changed.notify_all()

    def pod(self, name: str, namespace: str) -> PodAllocation | None:
        with self._changed:
            return self._pods.get((namespace, name))

    def all(self) -> tuple[PodAllocation, ...]:
        with self._changed:
            return tuple(self._pods[key] for key in sorted(self._pods))

    def admit(
        self,
        name: str,
        namespace: str,
        requests: Mapping[str, int],
        numa_nodes: Collection[int] | None,
    ) -> PodAllocation:
        with self._admission:
            if self.pod(name, namespace) is not None:
                raise ValueError(f"there is a pod {namespace}/{name} already")
            resources = tuple(
                self._allocate(resource_name, count, numa_nodes)
                for resource_name, count in requests.items()
                if count > 0
            )
            with self._changed:
                if not self._plugins.running:
                    raise AdmissionError("the kubelet is not running")
                pod = PodAllocation(name, namespace, resources)
                self._pods[namespace, name] = pod
                self._save()
                self._changed.notify_all()
                return pod

    def delete(self, name: str, namespace: str) -> None:
        with self._changed:
            del self._pods[namespace, name]
            self._save()
            self._changed.notify_all()

    def _allocate(
        self,
        resource_name: str,
        count: int,
        numa_nodes: Collection[int] | None,
    ) -> ResourceAllocation:
        devices = self._plugins.devices(resource_name)
        ids = self._choose(resource_name, devices, count, numa_nodes)
        plugin = self._live_plugin(resource_name)
        request = api.AllocateRequest(
            container_requests=[api.ContainerAllocateRequest(devices_ids=ids)],
        )
        try:
            # Without a deadline, as the kubelet calls it.
            response = plugin.stub.Allocate(request)
        except (grpc.RpcError, ValueError) as error:
            raise failed("Allocate", error) from error
        if not response.container_responses:
            raise AdmissionError(f"no containers return in allocation response of {resource_name}")
        for problem in allocation_problems(response):
            self._plugins.complain(f"{resource_name}: Allocate {problem}")
        return ResourceAllocation(
            resource_name,
            tuple(devices[device_id] for device_id in ids),
            response.container_responses[0],
        )

    def _choose(
        self,
        resource_name: str,
        devices: Mapping[str, PluginDevice],
        count: int,
        numa_nodes: Collection[int] | None,
    ) -> list[str]:
        """*numa_nodes* is the topology manager's hint; without one every device is aligned."""
        available = self._available(resource_name, devices, count)
        aligned = [
            device_id
            for device_id in available
            if numa_nodes is None or set(numa_nodes) & set(devices[device_id].numa_nodes)
        ]
        if len(aligned) == count:
            return aligned  # all of them are needed anyway: the plugin is not asked
        # Too few aligned ones are all taken, and the plugin completes them from the others.
        must_include = aligned if len(aligned) < count else []
        candidates = available if len(aligned) < count else aligned
        preferred = self._preferred(resource_name, candidates, must_include, count)
        ranked = [*must_include, *preferred, *candidates]
        usable = [device_id for device_id in dict.fromkeys(ranked) if device_id in candidates]
        return sorted(usable[:count])

    def _available(
        self,
        resource_name: str,
        devices: Mapping[str, PluginDevice],
        count: int,
    ) -> list[str]:
        if resource_name not in self._plugins.resource_names():
            raise AdmissionError(f"cannot allocate unregistered device {resource_name}")
        healthy = {device.id for device in devices.values() if device.healthy}
        if not healthy:
            raise AdmissionError(
                "no healthy devices present; cannot allocate unhealthy devices " + resource_name,
            )
        taken = {device_id for pod in self.all() for device_id in pod.device_ids(resource_name)}
        available = sorted(healthy - taken)
        if len(available) < count:
            raise AdmissionError(
                f"requested number of devices unavailable for {resource_name}. "
                f"Requested: {count}, Available: {len(available)}"
            )
        return available

    def _preferred(
        self,
        resource_name: str,
        available: Sequence[str],
        must_include: Sequence[str],
        count: int,
    ) -> list[str]:
        plugin = self._live_plugin(resource_name)
        if not plugin.options.get_preferred_allocation_available:
            return []
        request = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=available,
            must_include_deviceIDs=must_include,
            allocation_size=count,
        )
        try:
            response = plugin.stub.GetPreferredAllocation(
                api.PreferredAllocationRequest(container_requests=[request]),
            )
        except (grpc.RpcError, ValueError) as error:
            raise failed("GetPreferredAllocation", error) from error
        answers = response.container_responses
        preferred = list(answers[0].deviceIDs) if answers else []
        # A bad preference ends no pod: the kubelet takes what it can use of it and fills up.
        for problem in preference_problems(request, preferred):
            self._plugins.complain(f"{resource_name}: {problem}")
        return preferred

    def _live_plugin(self, resource_name: str) -> PluginClient:
        plugin = self._plugins.endpoint(resource_name)
        if plugin is None or plugin.stopped:
            raise AdmissionError(f"endpoint of {resource_name} has been stopped")
        return plugin


def failed(call: str, error: grpc.RpcError | ValueError) -> AdmissionError:
    if isinstance(error, ValueError):  # the plugin was lost and its channel closed before the call
        return AdmissionError(f"{call} failed due to {error}", grpc.StatusCode.CANCELLED)
    status = f"code = {error.code().name} desc = {error.details()}"
    message = f"{call} failed due to rpc error: {status}, which is unexpected"
    return AdmissionError(message, error.code())
