"""One round of cc-manager: what the label asks for, what the devices are in, the change, and the truth on the node."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cc_manager import labels
from cc_manager.access import Access
from cc_manager.apply import Transition
from cc_manager.host import boot_id, has_tee
from cc_manager.kube_node import KubeNode
from cc_manager.labels import NodeView, Publication
from cc_manager.mode import CcMode
from cc_manager.observation import Observation, Verified
from cc_manager.observe import observe
from cc_manager.plan import Plan, plan_transition
from cc_manager.settings import Settings, WhenBusy
from nodelib.daemon import RoundResult
from nodelib.errors import InvalidValue
from nodelib.metrics import Metric, MetricType, counter
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.ready_file import ReadyFile
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)

UEVENT_SUBSYSTEMS = ("pci", "vfio")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of bringing the devices to a mode."""

    mode: CcMode
    observations: tuple[Observation, ...]
    reasons: tuple[str, ...] = ()
    """Why not all devices are in the mode; empty if they are."""
    waits: bool = False
    """Whether only a device in use is in the way."""

    @property
    def ok(self) -> bool:
        return not self.reasons


class ModeSetter:
    """Brings a node's devices to a mode, with or without Kubernetes."""

    def __init__(self, node: Node, access: Access, settings: Settings, wakeups: Wakeups | None = None) -> None:
        self.node = node
        self.settings = settings
        self._access = access
        self._wakeups = wakeups or Wakeups()

    def observe(self, verified: dict[PciAddress, Verified], *, knobs: bool) -> tuple[Observation, ...]:
        """The mode of every device now; idle ones are woken for it."""
        this_boot = boot_id(self.node.host)
        return observe(self.node.scan(), self._access, verified, boot_id=this_boot, wake=True, knobs=knobs)

    def look(self) -> tuple[Observation, ...]:
        """The same without a single write, for `status`."""
        return observe(self.node.scan(), self._access, {}, boot_id="", wake=False, knobs=False)

    def bring_to(
        self, plan: Plan, observations: tuple[Observation, ...], verified: dict[PciAddress, Verified]
    ) -> Outcome:
        """Carry *plan* out and read back what came of it."""
        mode = plan.mode
        if plan.problems:
            return Outcome(mode, observations, tuple(str(problem) for problem in plan.problems))
        if plan.busy:
            names = ", ".join(str(address) for address in plan.busy)
            waits = self.settings.when_busy is WhenBusy.WAIT
            return Outcome(mode, observations, (f"in use by a virtual machine: {names}",), waits)
        if plan.is_done:
            return Outcome(mode, observations)
        transition = Transition(
            self._access, self.node.sysfs, observations, reset_timeout_s=self.settings.reset_timeout_s
        )
        failures = transition.carry_out(plan, self._wakeups.stop.is_set)
        after = self.observe(verified, knobs=True)
        reasons = [str(failure) for failure in failures]
        if not reasons:
            reasons = [_still(one) for one in after if not one.is_in(mode)]
        return Outcome(mode, after, tuple(reasons))


@dataclass
class _Counts:
    """What the metrics count."""

    transitions: int = 0
    failures: int = 0
    observations: tuple[Observation, ...] = ()
    durations_s: list[float] = field(default_factory=list)


class Reconciler:
    """Keeps the node in the mode that its label asks for, and its labels true."""

    def __init__(self, setter: ModeSetter, kube_node: KubeNode) -> None:
        self._setter = setter
        self._kube_node = kube_node
        self._settings = setter.settings
        self._counts = _Counts()
        self.ready_file = ReadyFile(setter.node.host, setter.settings.ready_file)

    def round(self) -> RoundResult:
        """One round of the daemon. Raises ApiError if the node cannot be read; its devices then stay as they are."""
        view = self._kube_node.view()
        try:
            mode = labels.desired_mode(
                view.labels, self._settings.default_mode, host_capable=has_tee(self._setter.node.sysfs)
            )
        except InvalidValue as error:
            return self._fail(view, str(error), retry=False)
        verified = labels.parse_verified(view.annotations.get(labels.DEVICES))
        observations = self._setter.observe(verified, knobs=True)
        plan = plan_transition(observations, mode)
        if plan.phases:
            view = self._kube_node.publish(labels.changing(mode), view)
            self.ready_file.retract()
        begin = time.monotonic()
        outcome = self._setter.bring_to(plan, observations, verified)
        self._count(plan, outcome, time.monotonic() - begin)
        return self._publish(view, outcome, verified)

    def metrics(self) -> Iterable[Metric]:
        by_mode: dict[tuple[str, ...], float] = {}
        for one in self._counts.observations:
            key = (str(one.address), str(one.active or "unknown"))
            by_mode[key] = 1.0
        return (
            Metric(
                "cc_manager_device_mode",
                "1 for each device and its mode.",
                MetricType.GAUGE,
                by_mode,
                ("device", "mode"),
            ),
            counter("cc_manager_transitions", "Changes of mode begun.", self._counts.transitions),
            counter("cc_manager_failed_transitions", "Changes of mode that failed.", self._counts.failures),
        )

    def _publish(self, view: NodeView, outcome: Outcome, verified: dict[PciAddress, Verified]) -> RoundResult:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        devices = labels.format_verified(
            outcome.observations, verified, boot_id=boot_id(self._setter.node.host), now=now
        )
        reason = "; ".join(outcome.reasons)
        if outcome.waits:
            self._tell(view, labels.waiting(outcome.mode, reason))
            return RoundResult(ready=False, message=f"waiting to change to mode {outcome.mode}: {reason}", retry=True)
        if not outcome.ok:
            return self._fail(view, reason, devices=devices, retry=True)
        said = labels.succeeded(outcome.mode, devices, len(outcome.observations))
        self._tell(view, said)
        return RoundResult(ready=True, message=said.message)

    def _fail(self, view: NodeView, reason: str, *, retry: bool, devices: str | None = None) -> RoundResult:
        self._tell(view, labels.failed(reason, devices))
        return RoundResult(ready=False, message=reason, retry=retry)

    def _tell(self, view: NodeView, publication: Publication) -> None:
        if publication.state in (None, labels.FAILED):
            self.ready_file.retract()
            self._kube_node.publish(publication, view)
        else:
            self._kube_node.publish(publication, view)
            self.ready_file.tell(ready=True)

    def _count(self, plan: Plan, outcome: Outcome, duration_s: float) -> None:
        self._counts.observations = outcome.observations
        if plan.phases:
            self._counts.transitions += 1
            self._counts.failures += not outcome.ok
            log.info("the change to mode %s took %.1f s", plan.mode, duration_s)


def _still(one: Observation) -> str:
    if one.problem:
        return str(one.problem)
    return f"{one.address}: still in mode {one.active or 'unknown'}"
