"""The node as a command sees it that is not the daemon: for `list`, `status` and `plan`, which change nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_plugin.endpoint import answers, endpoint_path, why_blocked
from device_plugin.inventory import Devices, by_resource
from device_plugin.kubelet_socket import find_kubelet
from device_plugin.plan import KubeletId, Step, plan
from device_plugin.settings import CdiMode, Settings
from nodelib.errors import NodeError
from nodelib.inventory import Inventory
from nodelib.names import ResourceName
from nodelib.node import Node
from nodelib.vfio import assignable_devices

if TYPE_CHECKING:
    from device_plugin.specs import Specs
    from nodelib.spec_plan import Step as SpecStep


@dataclass(frozen=True, slots=True)
class Planned:
    """What a daemon that starts now would do."""

    steps: "tuple[SpecStep | Step, ...]"
    waiting: tuple[tuple[str, str], ...]
    """What it would wait for: the resource, or `kubelet` or `CDI`, and the reason."""


class Outside:
    """What *settings* make of *node*."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self._node = node
        self._settings = settings
        self.kubelet_socket = node.host.resolve(settings.kubelet_socket)

    @property
    def folder(self) -> Path:
        """Where the kubelet's socket is, and where ours go."""
        return self.kubelet_socket.parent

    def devices(self) -> tuple[Devices, Inventory]:
        """What would be advertised, and the look at the node that it comes from."""
        inventory = self._node.scan(with_config=True)
        devices = assignable_devices(inventory, self._settings.naming)
        if self._settings.cdi is CdiMode.REQUIRE:  # with `write` the daemon would first write what is missing
            devices, _ = self._specs().check(devices)
        return devices, inventory

    def kubelet(self) -> KubeletId | None:
        return find_kubelet(self.kubelet_socket)

    def is_served(self, resource: ResourceName) -> bool:
        """Whether somebody answers on the socket of *resource*."""
        try:
            path = endpoint_path(self.folder, resource)
        except NodeError:
            return False
        return path.is_socket() and answers(path)

    def plan(self, devices: Devices) -> Planned:
        desired = by_resource(devices)
        waiting = [(str(name), reason) for name in desired if (reason := why_blocked(self.folder, name))]
        kubelet = self.kubelet()
        if desired and kubelet is None:
            waiting.append(("kubelet", f"there is no socket {self.kubelet_socket}"))
        spec_steps: tuple[SpecStep, ...] = ()
        try:
            specs = self._specs().plan(devices)
            spec_steps = specs.steps
            waiting += [("CDI", str(problem)) for problem in specs.problems]
        except NodeError as error:
            waiting.append(("CDI", str(error)))
        blocked = {name for name in desired if str(name) in dict(waiting)}
        return Planned((*spec_steps, *plan(desired, (), kubelet, blocked)), tuple(waiting))

    def _specs(self) -> "Specs":
        from device_plugin.specs import Specs  # with a YAML parser, which `list` seldom needs

        return Specs(self._node.host, self._settings.cdi)
