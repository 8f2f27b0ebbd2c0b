"""One round of device-plugin: look at devices, specs and the kubelet, change what differs, report."""

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from device_plugin.allocate import AllocatePolicy, tell_nobody
from device_plugin.apply import Servers
from device_plugin.changes import HealthChange, events_of, health_changes
from device_plugin.endpoint import remove_abandoned, why_blocked
from device_plugin.inventory import Devices, by_resource, summary
from device_plugin.kubelet_socket import find_kubelet
from device_plugin.plan import KubeletId, Registration, plan
from device_plugin.server import ResourceServer
from device_plugin.settings import CdiMode, Settings
from device_plugin.specs import Specs
from device_plugin.tally import PREFIX, Tally
from device_plugin.watch import UEVENT_SUBSYSTEMS
from nodelib.daemon import Backoff, Daemon, RoundResult
from nodelib.errors import NodeError
from nodelib.event_reasons import EventReason
from nodelib.folders import FolderWatch
from nodelib.inventory import Inventory
from nodelib.metrics import Histogram, Metric
from nodelib.names import ResourceName
from nodelib.node import Node
from nodelib.running import run_until_stopped
from nodelib.settings import DaemonSettings
from nodelib.spec_files import FOLDERS
from nodelib.steps import carry_out
from nodelib.sysfs import Sysfs
from nodelib.vfio import AssignableDevice, assignable_devices, without_group
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)

RETRY = Backoff(first_s=0.5, longest_s=0.8)
"""A second instance takes over within a second of the first's end, even if that was killed and left its socket."""
DEFAULT_DAEMON = DaemonSettings(interval_s=30.0, listen="")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the node came to."""

    desired: Mapping[ResourceName, Devices] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """GPUs that cannot be advertised at all, with the reason."""
    troubles: tuple[str, ...] = ()
    """What is wrong with the specs that we write ourselves."""


class Plugin:
    """Advertises a node's devices while it runs; one round at a time, in whatever thread calls."""

    def __init__(
        self,
        node: Node,
        settings: Settings | None = None,
        wakeups: Wakeups | None = None,
        tell: Callable[[EventReason, str], None] = tell_nobody,
    ) -> None:
        """*tell* is given what an administrator must know; it must not wait."""
        self._node = node
        self._tell = tell
        self._settings = settings or Settings()
        self._wakeups = wakeups or Wakeups()
        self._kubelet_socket = node.host.resolve(self._settings.kubelet_socket)
        self._specs = Specs(node.host, self._settings.cdi, self._wakeups.stop.is_set)
        self._inventory = Inventory()
        self._look = Look()
        self._kubelet: KubeletId | None = None
        self._tally = Tally()
        self._servers = Servers(self._make_server)
        self._watch = FolderWatch(self._wakeups, self._watched_folders)

    @property
    def desired(self) -> Mapping[ResourceName, Devices]:
        """What is to be advertised, as of the last round."""
        return self._look.desired

    def run(self, daemon: DaemonSettings = DEFAULT_DAEMON) -> None:
        """Rounds until the wake-ups' stop event; then streams are ended and our sockets removed."""
        remove_abandoned(self._kubelet_socket.parent)
        run_until_stopped(
            Daemon(
                self.round,
                self._wakeups,
                interval_s=min(daemon.interval_s, self._settings.health_interval_s),
                backoff=RETRY,
            ),
            # The last one is left first: an instance that waits for our place need not wait for the listeners' end.
            sources=[
                self._node.events(self._wakeups, UEVENT_SUBSYSTEMS),
                self._watch,
                contextlib.closing(self),
            ],
            listen=daemon.listen,
            prefix=PREFIX,
            metrics=self.metrics,
        )

    def round(self) -> RoundResult:
        """One look at everything, and whatever has to follow from it. Ready when each resource is listened to."""
        self._watch.refresh()
        before, self._look = self._look, self._look_at_node()
        self._tell_changes(health_changes(_all(before.desired), _all(self._look.desired)))
        kubelet = self._find_kubelet()
        blocked = self._blocked()
        failures = self._carry_out(kubelet, blocked)
        return self._result(kubelet, blocked | failures)

    def close(self) -> None:
        """Stop serving and remove our sockets. Capacity stays with the kubelet: a restart is no loss of devices."""
        self._servers.close()

    def metrics(self) -> Iterable[Metric | Histogram]:
        return self._tally.metrics(self._look.desired)

    # --- looking

    def _look_at_node(self) -> Look:
        self._inventory = self._node.scan(with_config=True).remembering(self._inventory)
        devices = assignable_devices(self._inventory, self._settings.naming)
        left_out = tuple(f"{device.address}: {problem}" for device, problem in without_group(self._inventory))
        # Before anything is advertised, so that no device is ever to be had without its name.
        devices, troubles = self._specs.check(devices)
        return Look(by_resource(devices), left_out, troubles)

    def _find_kubelet(self) -> KubeletId | None:
        found = find_kubelet(self._kubelet_socket)
        if found and self._kubelet and found != self._kubelet:
            log.info("the kubelet was restarted")
            self._tally.kubelet_restarted()
        self._kubelet = found or self._kubelet
        return found

    def _blocked(self) -> dict[ResourceName, str]:
        """The resources whose server cannot be started now, and why."""
        waiting = (resource for resource in self._look.desired if not self._servers.is_running(resource))
        reasons = {resource: why_blocked(self._kubelet_socket.parent, resource) for resource in waiting}
        return {resource: reason for resource, reason in reasons.items() if reason}

    def _watched_folders(self) -> tuple[Path, ...]:
        host = self._node.host
        cdi = () if self._settings.cdi is CdiMode.OFF else FOLDERS
        dev = ("/dev/vfio", "/dev/vfio/devices") if host.shows_dev else ()
        return (self._kubelet_socket.parent, *(host.resolve(folder) for folder in (*cdi, *dev)))

    # --- doing

    def _make_server(self, resource: ResourceName) -> ResourceServer:
        settings = self._settings
        policy = AllocatePolicy(
            lambda device: is_held(self._node.sysfs, device),
            settings.busy_wait_s,
            settings.when_held,
            settings.strategy,
            settings.pass_addresses,
            self._tell,
        )
        return ResourceServer(
            resource,
            self._kubelet_socket,
            policy,
            self._tally,
            self._wakeups.wake,
            stream_wait_s=settings.stream_wait_s,
        )

    def _carry_out(self, kubelet: KubeletId | None, blocked: Mapping[ResourceName, str]) -> dict[ResourceName, str]:
        """Do what differs, resource by resource: one that fails does not stop the others."""
        failures: dict[ResourceName, str] = {}
        steps = plan(self._look.desired, self._servers.observe(), kubelet, blocked)
        for resource, of_one in itertools.groupby(steps, key=lambda step: step.resource):
            try:
                carry_out(tuple(of_one), self._servers.apply, stopped=self._wakeups.stop.is_set)
            except NodeError as error:
                failures[resource] = str(error)
        return failures

    # --- telling

    def _tell_changes(self, changes: Sequence[HealthChange]) -> None:
        for change in changes:
            log.log(logging.INFO if change.device.is_healthy else logging.WARNING, "%s", change)
        for reason, text in events_of(changes):
            self._tell(reason, text)

    def _result(self, kubelet: KubeletId | None, failures: Mapping[ResourceName, str]) -> RoundResult:
        look = self._look
        troubles = [*look.troubles, *(f"{resource}: {reason}" for resource, reason in failures.items())]
        states = {server.resource: server.registration for server in self._servers.observe()}
        unheard = [name for name, state in states.items() if state is not Registration.STREAMING]
        if states and kubelet is None:
            troubles.append(f"waiting for the kubelet: there is no socket {self._kubelet_socket}")
        else:
            troubles += [self._not_registered(resource, states[resource]) for resource in unheard]
        if troubles or unheard:
            return RoundResult(ready=False, message="; ".join(troubles), retry=bool(failures))
        if look.desired:
            offers = (f"{resource} ({summary(devices)})" for resource, devices in look.desired.items())
            return RoundResult(ready=True, message="; ".join(("advertising " + ", ".join(offers), *look.left_out)))
        return RoundResult(ready=True, message="; ".join(("no device to advertise", *look.left_out)))

    def _not_registered(self, resource: ResourceName, registration: Registration) -> str:
        return f"registration of {resource} is {self._servers.problem(resource) or registration.value}"


def is_held(sysfs: Sysfs, device: AssignableDevice) -> bool:
    """Whether a virtual machine has *device* open at this moment; what cannot be read counts as held.

    The last round may be seconds old, and VFIO announces neither an open nor a close.
    """
    use = sysfs.group_use(int(device.id))
    return bool(use.open or use.unread or not use.read)


def _all(desired: Mapping[ResourceName, Devices]) -> Devices:
    return tuple(itertools.chain.from_iterable(desired.values()))
