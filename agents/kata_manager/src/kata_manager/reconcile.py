"""One round of kata-manager: look at devices and folders, write what differs, look again, report."""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from kata_manager.plan import plan
from kata_manager.settings import Settings
from nodelib.cdi import CdiSpec, specs_for
from nodelib.daemon import Daemon, RoundResult
from nodelib.errors import NodeError
from nodelib.folders import watched_folders
from nodelib.inventory import Inventory
from nodelib.metrics import Metric, MetricType, counter, gauge
from nodelib.node import Node
from nodelib.running import run_until_stopped
from nodelib.settings import DaemonSettings
from nodelib.spec_files import FOLDERS, Resolution
from nodelib.spec_folder import SpecReader, apply
from nodelib.spec_plan import SpecPlan, plan_removal
from nodelib.steps import carry_out
from nodelib.vfio import AssignableDevice, assignable_devices, without_group
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)

UEVENT_SUBSYSTEMS = ("pci", "vfio", "vfio-dev")


class SpecKeeper:
    """Keeps the CDI specs of a node as its devices are."""

    def __init__(self, node: Node, settings: Settings, wakeups: Wakeups | None = None) -> None:
        self._node = node
        self._settings = settings
        self._wakeups = wakeups or Wakeups()
        self._reader = SpecReader()
        self._inventory = Inventory()
        self._devices: tuple[AssignableDevice, ...] = ()
        """Of the last look."""
        self._writes = 0
        self._conflicts = 0

    @property
    def folder(self) -> Path:
        """Where our specs are: the setting, with the host's links followed."""
        return self._node.host.resolve(self._settings.cdi_folder)

    def _watched_folders(self) -> tuple[Path, ...]:
        """The folders in which a change may concern us: somebody may delete our file or add a rival."""
        return (self.folder, *(self._node.host.resolve(folder) for folder in FOLDERS))

    def devices(self) -> tuple[AssignableDevice, ...]:
        """The node's assignable devices now; what left since the last look keeps its name."""
        self._inventory = self._node.scan().remembering(self._inventory)
        self._devices = assignable_devices(self._inventory, self._settings.naming)
        return self._devices

    def left_out(self) -> tuple[str, ...]:
        """Why a GPU of the last look can have no CDI name at all."""
        return tuple(f"{device.address}: {problem}" for device, problem in without_group(self._inventory))

    def specs(self) -> tuple[CdiSpec, ...]:
        """The specs that the node should have now."""
        return specs_for(self.devices())

    def plan(self) -> SpecPlan:
        """What `run` would write and remove now."""
        return plan(self.folder, self.devices(), self._reader.read(self.folder))

    def write(self) -> SpecPlan:
        """Write and remove what differs; afterwards the plan is empty. Raises NodeError."""
        planned = self.plan()
        carry_out(planned.steps, apply, stopped=self._wakeups.stop.is_set)
        self._writes += len(planned.steps)
        return planned

    def resolution(self) -> Resolution:
        """What a runtime would make of the node's CDI folders now."""
        folders = dict.fromkeys((*FOLDERS, self._settings.cdi_folder))
        return self._reader.resolve(self._node.host, tuple(folders))

    def run(self, daemon: DaemonSettings) -> None:
        """Rounds until the wake-ups' stop event."""
        # Only a folder that is there can be watched, and after a boot (/run is a tmpfs) it is not. A failure is the
        # first round's to tell.
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        run_until_stopped(
            Daemon(self.round, self._wakeups, interval_s=daemon.interval_s),
            sources=[
                self._node.events(self._wakeups, UEVENT_SUBSYSTEMS),
                watched_folders(self._wakeups, self._watched_folders()),
            ],
            listen=daemon.listen,
            prefix="kata_manager",
            metrics=self.metrics,
            at_stop=[self._remove_if_asked],
        )

    def round(self) -> RoundResult:
        """One round of the daemon: ready when every name of ours resolves to what we wrote."""
        planned = self.write()
        resolution = self.resolution()
        problems = tuple(dict.fromkeys((*planned.problems, *resolution.problems)))
        self._conflicts = len(problems)
        if problems:
            return RoundResult(ready=False, message="; ".join(str(problem) for problem in problems))
        wanted = [
            (f"{spec.kind}={device.name}", device.nodes) for spec in specs_for(self._devices) for device in spec.devices
        ]
        for name, nodes in wanted:
            if resolution.nodes.get(name) != nodes and not self._wakeups.stop.is_set():
                raise NodeError(f"{name} was written to {self.folder} and does not resolve to {', '.join(nodes)}")
        return RoundResult(ready=True, message=f"{len(wanted)} CDI names resolve")

    def _remove_if_asked(self) -> None:
        """At a clean stop: take our specs away if the settings say so."""
        if self._settings.remove_on_stop:
            carry_out(plan_removal(self._reader.read(self.folder)), apply)

    def metrics(self) -> Iterable[Metric]:
        specs = specs_for(self._devices)
        return (
            Metric(
                "kata_manager_cdi_names",
                "Names in our CDI specs, by kind.",
                MetricType.GAUGE,
                {(spec.kind,): float(len(spec.devices)) for spec in specs},
                ("kind",),
            ),
            counter("kata_manager_writes", "Spec files written or removed.", self._writes),
            gauge("kata_manager_conflicts", "Broken or rival specs found in the last round.", self._conflicts),
        )
