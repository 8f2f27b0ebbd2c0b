"""Carry out the steps of a plan: the servers that run, and what a step does to them."""

from collections.abc import Callable
from typing import assert_never

from device_plugin.plan import ObservedServer, Publish, Register, StartServer, Step, StopServer
from device_plugin.server import ResourceServer
from nodelib.names import ResourceName


class Servers:
    """The servers of this process by resource; *make* gives a new one for a resource."""

    def __init__(self, make: Callable[[ResourceName], ResourceServer]) -> None:
        self._make = make
        self._running: dict[ResourceName, ResourceServer] = {}

    def observe(self) -> tuple[ObservedServer, ...]:
        return tuple(server.observe() for server in self._running.values())

    def is_running(self, resource: ResourceName) -> bool:
        return resource in self._running

    def problem(self, resource: ResourceName) -> str:
        """Why *resource* is not registered, if the kubelet said; nothing if it is, or does not run."""
        server = self._running.get(resource)
        return server.problem if server else ""

    def apply(self, step: Step) -> None:
        """Do one step. Raises NodeError."""
        match step:
            case StartServer(resource, devices):
                server = self._make(resource)
                server.start(devices)
                self._running[resource] = server
            case Publish(resource, devices):
                self._running[resource].publish(devices)
            case Register(resource, kubelet):
                self._running[resource].register(kubelet)
            case StopServer(resource):
                _stop(self._running.pop(resource))
            case _:
                assert_never(step)

    def close(self) -> None:
        """Stop them all at once, which takes as long as the slowest."""
        servers = list(self._running.values())
        self._running.clear()
        _stop(*servers)


def _stop(*servers: ResourceServer) -> None:
    for server in servers:
        server.begin_stop()
    for server in servers:
        server.finish_stop()
