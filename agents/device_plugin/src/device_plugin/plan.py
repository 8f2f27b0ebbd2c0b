"""Decide which servers run, what they offer and when they register. Nothing here touches the node."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from device_plugin.inventory import Devices, summary
from nodelib.names import ResourceName


@dataclass(frozen=True, slots=True)
class KubeletId:
    """One life of the kubelet: at each start it makes its socket anew."""

    device: int
    inode: int
    made_ns: int
    """File systems give a freed inode number away again; the time tells the two apart."""


class Registration(Enum):
    """How far the kubelet has come with one of our servers."""

    NONE = "not asked for"
    UNDER_WAY = "under way"
    ACCEPTED = "accepted, and the kubelet has not opened its stream yet"
    STREAMING = "accepted, and the kubelet listens"
    LOST = "accepted, and the kubelet's stream ended or never came"


@dataclass(frozen=True, slots=True)
class ObservedServer:
    """One of our servers as it is now."""

    resource: ResourceName
    devices: Devices
    """What it offers."""
    has_socket: bool
    """Whether its socket in the kubelet's folder is still its own."""
    registration: Registration
    kubelet: KubeletId | None
    """The kubelet that it is or was registered with."""


@dataclass(frozen=True, slots=True)
class StartServer:
    resource: ResourceName
    devices: Devices

    def __str__(self) -> str:
        return f"serve {self.resource}: {summary(self.devices)}"


@dataclass(frozen=True, slots=True)
class Publish:
    resource: ResourceName
    devices: Devices

    def __str__(self) -> str:
        return f"publish {self.resource}: {summary(self.devices)}"


@dataclass(frozen=True, slots=True)
class Register:
    resource: ResourceName
    kubelet: KubeletId

    def __str__(self) -> str:
        return f"register {self.resource} with the kubelet"


@dataclass(frozen=True, slots=True)
class StopServer:
    resource: ResourceName
    reason: str

    def __str__(self) -> str:
        return f"stop serving {self.resource}: {self.reason}"


Step = StartServer | Publish | Register | StopServer


def plan(
    desired: Mapping[ResourceName, Devices],
    servers: Iterable[ObservedServer],
    kubelet: KubeletId | None,
    blocked: Container[ResourceName] = (),
) -> tuple[Step, ...]:
    """Steps that leave one registered server for each desired resource, offering its devices, and no other.

    The steps of one resource stand together and do not depend on those of another. Without a kubelet all is made
    ready for one. A server that is *blocked* cannot be started as the node stands.
    """
    running = {server.resource: server for server in servers}
    steps: list[Step] = []
    for resource in sorted({*desired, *running}):
        devices = desired.get(resource, ())
        server = running.get(resource)
        if server is None and resource in blocked:
            continue
        if devices:
            steps += _offer(resource, devices, server, kubelet)
        elif server:
            steps += _withdraw(server)
    return tuple(steps)


def _offer(
    resource: ResourceName, devices: Devices, server: ObservedServer | None, kubelet: KubeletId | None
) -> Iterable[Step]:
    reason = _outdated(server, kubelet) if server else ""
    if server and reason:
        # A new server, not only a new registration: when a stream ends the kubelet drops whoever is registered under
        # its name then, so the old stream must be over before that (facts: kubelet device plugin API).
        yield StopServer(resource, reason)
        server = None
    if server is None:
        yield StartServer(resource, devices)
    elif server.devices != devices:
        yield Publish(resource, devices)
    if kubelet and (server is None or server.registration in (Registration.NONE, Registration.LOST)):
        yield Register(resource, kubelet)


def _withdraw(server: ObservedServer) -> Iterable[Step]:
    if server.devices:
        # Said first: the mere end of the stream would leave the old capacity on the node for five minutes.
        yield Publish(server.resource, ())
    yield StopServer(server.resource, "no device has this name any more")


def _outdated(server: ObservedServer, kubelet: KubeletId | None) -> str:
    if not server.has_socket:
        return "its socket is gone"
    if kubelet and server.kubelet and kubelet != server.kubelet:
        return "the kubelet was restarted"
    return ""
