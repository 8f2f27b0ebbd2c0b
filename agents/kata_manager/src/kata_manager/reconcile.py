"""One round of kata-manager: look at devices, folders and modules, do what differs, look again, report."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from kata_manager.event_reasons import NOT_READY, READY
from kata_manager.modules import VhostModules
from kata_manager.plan import Plan, plan, plan_specs
from kata_manager.settings import Settings
from nodelib import spec_plan
from nodelib.cdi import CdiSpec, specs_for
from nodelib.daemon import Daemon, RoundResult
from nodelib.errors import NodeError
from nodelib.event_reasons import EventReason
from nodelib.files import make_folder
from nodelib.folders import FolderWatch
from nodelib.inventory import Inventory
from nodelib.metrics import Metric, MetricType, counter
from nodelib.node import Node
from nodelib.problem import Problem
from nodelib.running import run_until_stopped
from nodelib.settings import DaemonSettings
from nodelib.spec_files import FOLDERS, Resolution, SpecFile
from nodelib.spec_folder import SpecReader, apply, leftovers
from nodelib.spec_plan import SpecPlan, plan_removal
from nodelib.steps import carry_out
from nodelib.vfio import AssignableDevice, assignable_devices, without_group
from nodelib.wakeups import Wakeups

UEVENT_SUBSYSTEMS = ("pci", "vfio", "vfio-dev")
_NO_CONFLICTS: dict[tuple[str, ...], float] = {("cdi-broken",): 0.0, ("cdi-conflict",): 0.0, ("cdi-foreign-file",): 0.0}
"""For who watches: none is a number too."""


def _tell_nobody(_reason: EventReason, _message: str) -> None:
    """By hand, the command itself says everything."""


class SpecKeeper:
    """Keeps the CDI specs of a node as its devices are, and the modules loaded that Kata needs."""

    def __init__(
        self,
        node: Node,
        settings: Settings,
        wakeups: Wakeups | None = None,
        tell: Callable[[EventReason, str], None] = _tell_nobody,
    ) -> None:
        """*tell* is given what an administrator must know."""
        self._node = node
        self._settings = settings
        self._wakeups = wakeups or Wakeups()
        self._tell = tell
        self._told: frozenset[str] = frozenset()
        self._reader = SpecReader(node.host)
        self._watch = FolderWatch(self._wakeups, lambda: [node.host.resolve(folder) for folder in self.folders])
        self._modules = VhostModules(node, settings.modules)
        self._inventory = Inventory()
        self._devices: tuple[AssignableDevice, ...] = ()
        """Of the last look."""
        self._writes = 0
        self._removals = 0
        self._problems: tuple[Problem, ...] = ()
        """Of the last round."""

    @property
    def folder(self) -> Path:
        """Where our specs are: the setting, with the host's links followed."""
        return self._node.host.resolve(self._settings.cdi_folder)

    @property
    def folders(self) -> tuple[str, ...]:
        """The CDI folders of the host that matter here, the later ones winning."""
        return tuple(dict.fromkeys((*FOLDERS, self._settings.cdi_folder)))

    # --- looking

    def devices(self) -> tuple[AssignableDevice, ...]:
        """The node's assignable devices now; what left since the last look keeps its name."""
        self._inventory = self._node.scan().remembering(self._inventory)
        self._devices = assignable_devices(self._inventory, self._settings.naming)
        return self._devices

    @property
    def last_devices(self) -> tuple[AssignableDevice, ...]:
        """The devices of the last look."""
        return self._devices

    def left_out(self) -> tuple[str, ...]:
        """Why a GPU of the last look can have no CDI name at all."""
        return tuple(f"{device.address}: {problem}" for device, problem in without_group(self._inventory))

    def specs(self) -> tuple[CdiSpec, ...]:
        """The specs that the node should have now."""
        return specs_for(self.devices(), self._settings.version)

    def files(self) -> tuple[SpecFile, ...]:
        """What is in our folder now. Raises InvalidValue where it cannot be listed."""
        return self._reader.read(self.folder)

    def plan(self) -> Plan:
        """What `run` would load, write and remove now."""
        return plan(self.plan_specs(), self._modules.missing(), keeps_specs=self._settings.keeps_specs)

    def plan_specs(self) -> SpecPlan:
        """What `write` would write and remove now."""
        return plan_specs(self.folder, self.devices(), self.files(), self._settings)

    def resolution(self) -> Resolution:
        """What a runtime would make of the node's CDI folders now."""
        return self._reader.resolve(self.folders)

    # --- doing

    def write(self) -> SpecPlan:
        """Write and remove what differs; afterwards the plan is empty. Raises NodeError."""
        planned = self.plan_specs()
        if failures := [failure for step in planned.steps if (failure := self._carry_out(step))]:
            raise NodeError("; ".join(failures))
        return planned

    def run(self, daemon: DaemonSettings) -> None:
        """Rounds until the wake-ups' stop event."""
        # Only a folder that is there can be watched, and after a boot (/run is a tmpfs) it is not. A failure is the
        # first round's to tell.
        with contextlib.suppress(OSError):
            make_folder(self.folder)
        run_until_stopped(
            Daemon(self.round, self._wakeups, interval_s=daemon.interval_s),
            sources=[
                self._node.events(self._wakeups, UEVENT_SUBSYSTEMS),
                self._watch,
            ],
            listen=daemon.listen,
            prefix="kata_manager",
            metrics=self.metrics,
            at_stop=[self._remove_if_asked],
        )

    def round(self) -> RoundResult:
        """One round of the daemon: ready when every name of ours resolves to what we wrote, and the modules are there.

        What is wrong is told as an Event once, and again when it is right.
        """
        try:
            result = self._round()
        except NodeError as error:
            self._tell_changes((str(error),))
            raise
        self._tell_changes(tuple(str(problem) for problem in self._problems))
        return result

    def metrics(self) -> Iterable[Metric]:
        devices = Counter(
            (str(device.resource), "listed" if device.is_resolvable else "left-out") for device in self._devices
        )
        problems = Counter((problem.code,) for problem in self._problems)
        return (
            Metric(
                "kata_manager_devices",
                "Devices by CDI kind, and whether our spec lists them: listed, left-out.",
                MetricType.GAUGE,
                {labels: float(count) for labels, count in devices.items()},
                ("kind", "state"),
            ),
            Metric(
                "kata_manager_cdi_names",
                "Names in our CDI specs, by kind.",
                MetricType.GAUGE,
                {(spec.kind,): float(len(spec.devices)) for spec in specs_for(self._devices)},
                ("kind",),
            ),
            counter("kata_manager_writes", "Spec files written.", self._writes),
            counter("kata_manager_removals", "Spec files removed.", self._removals),
            Metric(
                "kata_manager_conflicts",
                "What was in the way in the last round, by problem code: broken or rival specs, missing modules.",
                MetricType.GAUGE,
                {**_NO_CONFLICTS, **{code: float(count) for code, count in problems.items()}},
                ("problem",),
            ),
        )

    # --- how

    def _round(self) -> RoundResult:
        self._problems = ()
        unloaded = self._modules.load()
        if not self._settings.keeps_specs:
            self._problems = unloaded
            return self._result("no CDI spec is kept here (CDI_ENABLED=false)", retry=bool(unloaded))
        self._watch.refresh()
        planned = self.write()
        if self._watch.refresh():
            self._wakeups.wake("a CDI folder was made")  # somebody may have been in it before we listened
        for leftover in leftovers(self.folder, time.time()):
            self._carry_out(leftover)
        resolution = self.resolution()
        self._problems = tuple(dict.fromkeys((*unloaded, *planned.problems, *resolution.problems)))
        wanted = [
            (f"{spec.kind}={device.name}", device.nodes) for spec in specs_for(self._devices) for device in spec.devices
        ]
        for name, nodes in wanted:
            if self._problems or self._wakeups.stop.is_set():
                break
            if resolution.nodes.get(name) != nodes:
                raise NodeError(f"{name} was written to {self.folder} and does not resolve to {', '.join(nodes)}")
        return self._result(f"{len(wanted)} CDI names resolve", retry=bool(unloaded))

    def _result(self, well: str, *, retry: bool) -> RoundResult:
        if self._problems:
            return RoundResult(ready=False, message="; ".join(str(problem) for problem in self._problems), retry=retry)
        return RoundResult(ready=True, message=well)

    def _carry_out(self, step: spec_plan.Step) -> str:
        """Do one step and count it; why it failed, for the others do not depend on it."""
        if self._wakeups.stop.is_set():
            return ""
        try:
            carry_out([step], apply)
        except NodeError as error:
            return str(error)
        self._writes += isinstance(step, spec_plan.WriteSpec)
        self._removals += isinstance(step, spec_plan.RemoveSpec)
        return ""

    def _tell_changes(self, reasons: tuple[str, ...]) -> None:
        """An Event for each reason that is new, and one when all is well again."""
        for reason in reasons:
            if reason not in self._told:
                self._tell(NOT_READY, reason)
        if self._told and not reasons:
            self._tell(READY, "the CDI specs and the kernel modules are right again")
        self._told = frozenset(reasons)

    def _remove_if_asked(self) -> None:
        """At a clean stop: take our specs away if the settings say so."""
        if self._settings.remove_on_stop:
            carry_out(plan_removal(self.files()), apply)
