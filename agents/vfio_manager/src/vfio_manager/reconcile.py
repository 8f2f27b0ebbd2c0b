"""One round of vfio-manager: look, plan, bind, look again, report."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodelib.daemon import STOP_GRACE_S, Daemon, RoundResult
from nodelib.errors import InvalidValue, NodeError
from nodelib.event_reasons import EventReason
from nodelib.held import HeldBy
from nodelib.inventory import Inventory, is_in_use
from nodelib.iommu import blocks_group
from nodelib.metrics import Metric, MetricType
from nodelib.modules import KernelModules
from nodelib.node import Node
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.pci import PciAddress, PciDevice, same_driver
from nodelib.problem import Refusal
from nodelib.ready_file import ReadyFile
from nodelib.running import run_until_stopped
from nodelib.settings import DaemonSettings
from nodelib.steps import carry_out
from nodelib.wakeups import Wakeups
from vfio_manager import modalias
from vfio_manager.apply import Failure, apply_all
from vfio_manager.event_reasons import BOUND, NOT_BOUND
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import NO_MODULE, Plan, plan_bind, plan_release
from vfio_manager.selection import targets
from vfio_manager.settings import Settings
from vfio_manager.steps import Bind, LoadModule, Unbind

log = logging.getLogger(__name__)

UEVENT_SUBSYSTEMS = ("pci", "drivers", "module")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a round left behind, read back."""

    unbound: tuple[PciDevice, ...]
    """Targets that are not on their VFIO driver."""
    failures: tuple[Failure, ...]
    refusals: tuple[Refusal, ...]
    unseen: tuple[str, ...] = ()
    """What could not be looked at, so that nobody can say it is as wanted."""

    @property
    def ok(self) -> bool:
        return not (self.unbound or self.failures or self.refusals or self.unseen)

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each function that is not as wanted."""
        told = {failure.address for failure in self.failures} | {refusal.address for refusal in self.refusals}
        silent = (f"{d.address}: still on {_driver_words(d)}" for d in self.unbound if d.address not in told)
        return (*map(str, self.failures), *map(str, self.refusals), *silent, *self.unseen)


def _tell_nobody(_reason: EventReason, _message: str) -> None:
    """By hand, the command itself says everything."""


class Binder:
    """Keeps a node's devices as *settings* want them."""

    def __init__(
        self,
        node: Node,
        settings: Settings,
        wakeups: Wakeups | None = None,
        tell: Callable[[EventReason, str], None] = _tell_nobody,
    ) -> None:
        """*tell* is given what an administrator must know."""
        self._tell = tell
        self._told: frozenset[str] = frozenset()
        self._node = node
        self._settings = settings
        self._wakeups = wakeups or Wakeups()
        self._binds = 0
        self._failures: Counter[str] = Counter()
        self._inventory = Inventory()
        self._aliases: tuple[tuple[object, ...], tuple[modalias.VfioAlias, ...]] = ((), ())
        self._modules = KernelModules(node.host, node.modprobe)
        self._ready_file = ReadyFile(node.host, settings.ready_file)

    # --- looking

    def scan(self) -> Inventory:
        """One look at the node. Raises InvalidValue if a device that was asked for is none that we may bind."""
        inventory = self._node.scan(with_locked=True)
        if unknown := self._not_found(inventory):
            raise InvalidValue(f"{unknown[0]} is no NVIDIA device of this node: see vfio-manager status")
        return inventory

    def plan(self, inventory: Inventory, unloadable: Mapping[str, str] = NO_MODULE) -> tuple[Plan, DriverChoice]:
        """What `bind` would do now, and the driver chosen for each device."""
        choice = self._driver_choice()
        plan = plan_bind(inventory, self._settings, choice, unloadable=unloadable)
        concerned = self._in_question(inventory, plan)
        if not concerned:
            return plan, choice
        # Only now, because it means a walk through all processes: a quiet round asks for nobody.
        return plan_bind(inventory, self._settings, choice, self._node.holders(concerned), unloadable), choice

    def users(self, inventory: Inventory) -> dict[PciAddress, HeldBy]:
        """Who has each device open that is in use, or on a driver that would wait for its users."""
        return self._node.holders(
            d for d in inventory.devices if not d.is_bridge and (is_in_use(inventory, d) or blocks_group(d))
        )

    # --- doing

    def bind(self) -> Outcome:
        """Bring every target to its VFIO driver and read back what came of it. Raises InvalidValue as `scan` does."""
        return self._bind(self.scan())

    def _bind(self, inventory: Inventory) -> Outcome:
        plan, choice = self.plan(inventory)
        if plan.modules:
            plan, choice = self.plan(inventory, self._load(plan.modules))
        failures = self._apply(plan)
        inventory = self._node.scan()
        unbound = tuple(
            device for device in targets(inventory, self._settings) if not same_driver(device.driver, choice.of(device))
        )
        self._inventory = inventory
        failed = {failure.address for failure in failures}
        self._binds += sum(isinstance(step, Bind) and step.address not in failed for step in plan.device_steps)
        return Outcome(unbound, failures, plan.refusals, self._unseen(inventory))

    def release(self, *, probe: bool = True) -> Outcome:
        """Give every idle target back to the driver that the kernel chooses, or to none; and read back."""
        inventory = self.scan()
        plan = plan_release(inventory, self._settings, probe=probe)
        if in_use := self._in_question(inventory, plan):
            plan = plan_release(inventory, self._settings, self._node.holders(in_use), probe=probe)
        failures = self._apply(plan)
        released = {device.address for device in plan.devices}
        inventory = self._node.scan()
        still = tuple(d for d in inventory.devices if d.address in released and d.is_on_vfio_driver)
        return Outcome(still, failures, plan.refusals, self._unseen(inventory))

    def run(self, daemon: DaemonSettings) -> None:
        """Rounds until the wake-ups' stop event; then the ready file goes, and every device stays as it is."""
        run_until_stopped(
            Daemon(self.round, self._wakeups, interval_s=daemon.interval_s),
            sources=[self._node.events(self._wakeups, UEVENT_SUBSYSTEMS)],
            listen=daemon.listen,
            prefix="vfio_manager",
            metrics=self.metrics,
            at_stop=[self._release_if_asked, self._ready_file.retract],
        )

    def round(self) -> RoundResult:
        """One round of the daemon; the ready file tells the truth after it."""
        try:
            outcome = self._bind(self._node.scan(with_locked=True))  # a device that was asked for may come later
        except Exception:  # whatever it is, nobody can say now that all is bound
            self._ready_file.retract()
            raise
        self._ready_file.tell(ready=outcome.ok)
        self._tell_changes(outcome)
        if outcome.ok:
            bound = len(targets(self._inventory, self._settings))
            return RoundResult(ready=True, message=f"all {bound} functions are on their VFIO drivers")
        return RoundResult(ready=False, message="; ".join(outcome.reasons), retry=bool(outcome.failures))

    def metrics(self) -> Iterable[Metric]:
        inventory = self._inventory
        kinds = Counter((d.driver or "none", _state(inventory, d)) for d in targets(inventory, self._settings))
        return (
            Metric(
                "vfio_manager_functions",
                "Functions that belong on a VFIO driver, by the one they are on and by state: idle, in-use, unbound.",
                MetricType.GAUGE,
                {kind: float(count) for kind, count in kinds.items()},
                ("driver", "state"),
            ),
            Metric("vfio_manager_binds", "Functions bound.", MetricType.COUNTER, {(): float(self._binds)}),
            Metric(
                "vfio_manager_failures",
                "Functions that could not be bound or unbound, by kind of failure: busy, hung, refused.",
                MetricType.COUNTER,
                {(kind,): float(count) for kind, count in self._failures.items()},
                ("kind",),
            ),
        )

    # --- how

    def _tell_changes(self, outcome: Outcome) -> None:
        """An Event for each reason that is new, and one when all is well again."""
        reasons = frozenset(outcome.reasons)
        for reason in outcome.reasons:
            if reason not in self._told:
                self._tell(NOT_BOUND, reason)
        if self._told and not reasons:
            self._tell(BOUND, "all devices are on their VFIO drivers again")
        self._told = reasons

    def _in_question(self, inventory: Inventory, plan: Plan) -> tuple[PciDevice, ...]:
        """The devices of which it matters who has them open: those to be unbound, and those in use."""
        addresses = {step.address for step in plan.device_steps if isinstance(step, Unbind)}
        addresses |= {refusal.address for refusal in plan.refusals if refusal.problem.code == "in-use"}
        return tuple(device for device in inventory.devices if device.address in addresses)

    def _load(self, steps: Sequence[LoadModule]) -> dict[str, str]:
        """Load the modules; those that would not, and why."""
        refused: dict[str, str] = {}
        for step in steps:
            try:
                carry_out([step], lambda step: self._modules.load(step.module), stopped=self._wakeups.stop.is_set)
            except NodeError as error:
                refused[step.module] = str(error)
        return refused

    def _not_found(self, inventory: Inventory) -> tuple[PciAddress, ...]:
        """The devices that were asked for and are not there, not NVIDIA's, or a port."""
        nvidia = {d.address for d in inventory.devices if d.vendor == VENDOR_NVIDIA and not d.is_bridge}
        return tuple(sorted(self._settings.only - nvidia))

    def _unseen(self, inventory: Inventory) -> tuple[str, ...]:
        known = {str(device.address) for device in inventory.devices}
        unread = tuple(str(fault) for fault in inventory.faults if fault.address not in known)
        return (*(f"{address}: there is no NVIDIA device" for address in self._not_found(inventory)), *unread)

    def _release_if_asked(self) -> None:
        """At a clean stop, within what is left of the 5 s that a stop may take."""
        if not self._settings.release_on_stop:
            return
        plan = plan_release(self._node.scan(with_locked=True), self._settings)
        failures = apply_all(plan.devices, self._node.sysfs, unbind_timeout_s=STOP_GRACE_S)
        for left in (*failures, *plan.refusals):
            log.warning("not released: %s", left)

    def _apply(self, plan: Plan) -> tuple[Failure, ...]:
        failures = apply_all(
            plan.devices,
            self._node.sysfs,
            unbind_timeout_s=self._settings.unbind_timeout_s,
            stopped=self._wakeups.stop.is_set,
        )
        self._failures.update(failure.kind for failure in failures)
        return failures

    def _driver_choice(self) -> DriverChoice:
        aliases = () if self._settings.driver else self._read_aliases()
        return DriverChoice(self._settings.driver, aliases, self._node.sysfs.drivers())

    def _read_aliases(self) -> tuple[modalias.VfioAlias, ...]:
        """The VFIO aliases of the kernel that runs; none where the host's modules are not to be seen."""
        path = self._node.host.resolve(f"/lib/modules/{self._modules.release()}/modules.alias")
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                status = os.fstat(file.fileno())
                stamp = (path, status.st_ino, status.st_size, status.st_mtime_ns)
                if stamp != self._aliases[0]:  # tens of thousands of lines, and only depmod changes them
                    self._aliases = (stamp, modalias.parse_aliases(file))
        except OSError as error:
            log.debug("no modules.alias (%s); every device gets %s", error, modalias.DEFAULT_DRIVER)
            return ()
        return self._aliases[1]


def _state(inventory: Inventory, device: PciDevice) -> str:
    if not device.is_on_vfio_driver:
        return "unbound"
    return "in-use" if is_in_use(inventory, device) else "idle"


def _driver_words(device: PciDevice) -> str:
    return f"driver {device.driver}" if device.driver else "no driver"
