"""One round of cc-manager: what the label asks for, what the devices are in, the change, and the truth on the node."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from cc_manager import labels
from cc_manager.host import boot_id, has_tee
from cc_manager.kube_node import KubeNode
from cc_manager.labels import NodeView, Publication
from cc_manager.lock import mode_lock
from cc_manager.observation import Observation, Verified
from cc_manager.plan import Plan, plan_transition
from cc_manager.setter import ModeSetter, Outcome
from cc_manager.settings import LOCK_FILE
from nodelib.daemon import Daemon, RoundResult
from nodelib.errors import InvalidValue
from nodelib.metrics import Metric, MetricType, counter
from nodelib.pci import PciAddress
from nodelib.ready_file import ReadyFile
from nodelib.running import run_until_stopped
from nodelib.settings import DaemonSettings

log = logging.getLogger(__name__)

UEVENT_SUBSYSTEMS = ("pci", "vfio")


@dataclass
class _Counts:
    """What the metrics count."""

    transitions: int = 0
    failures: int = 0
    observations: tuple[Observation, ...] = ()


class Reconciler:
    """Keeps the node in the mode that its label asks for, and its labels true."""

    def __init__(self, setter: ModeSetter, kube_node: KubeNode) -> None:
        self._setter = setter
        self._kube_node = kube_node
        self._settings = setter.settings
        self._counts = _Counts()
        self._ready_file = ReadyFile(setter.node.host, setter.settings.ready_file)

    def run(self, daemon: DaemonSettings) -> None:
        """Rounds until the wake-ups' stop event; devices, labels and modes then stay as they are.

        Raises NodeError if another cc-manager of this node is at work.
        """
        wakeups = self._setter.wakeups
        watcher = threading.Thread(
            target=self._kube_node.watch, args=(wakeups.wake, wakeups.stop), name="label-watch", daemon=True
        )
        with mode_lock(self._setter.node.host.resolve(LOCK_FILE)):
            watcher.start()
            run_until_stopped(
                Daemon(self.round, wakeups, interval_s=daemon.interval_s),
                sources=[self._setter.node.events(wakeups, UEVENT_SUBSYSTEMS)],
                listen=daemon.listen,
                prefix="cc_manager",
                metrics=self.metrics,
                at_stop=[lambda: watcher.join(1), self._kube_node.stop_watching, self._ready_file.retract],
            )

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
        if not observations:
            # Both ready values mean "verified", and of nothing nobody can say that.
            self._tell(view, labels.nothing_there())
            return RoundResult(ready=False, message=labels.nothing_there().message)
        plan = plan_transition(observations, mode)
        if plan.phases:
            staying = [one for one in observations if one.is_in(mode)]
            view = self._kube_node.publish(labels.changing(mode, self._devices(staying, verified)), view)
            self._ready_file.retract()
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
        devices = self._devices(outcome.observations, verified)
        reason = "; ".join(outcome.reasons)
        if outcome.waits:
            self._tell(view, labels.waiting(outcome.mode, reason, devices))
            return RoundResult(ready=False, message=f"waiting to change to mode {outcome.mode}: {reason}", retry=True)
        if not outcome.ok:
            return self._fail(view, reason, devices=devices, retry=True)
        said = labels.succeeded(outcome.mode, devices, len(outcome.observations))
        self._tell(view, said)
        return RoundResult(ready=True, message=said.message)

    def _devices(self, observations: Iterable[Observation], verified: dict[PciAddress, Verified]) -> str:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return labels.format_verified(observations, verified, boot_id=boot_id(self._setter.node.host), now=now)

    def _fail(self, view: NodeView, reason: str, *, retry: bool, devices: str | None = None) -> RoundResult:
        self._tell(view, labels.failed(reason, devices))
        return RoundResult(ready=False, message=reason, retry=retry)

    def _tell(self, view: NodeView, publication: Publication) -> None:
        if publication.state in (None, labels.FAILED):
            self._ready_file.retract()
            self._kube_node.publish(publication, view)
        else:
            self._kube_node.publish(publication, view)
            self._ready_file.tell(ready=True)

    def _count(self, plan: Plan, outcome: Outcome, duration_s: float) -> None:
        self._counts.observations = outcome.observations
        if plan.phases:
            self._counts.transitions += 1
            self._counts.failures += not outcome.ok
            log.info("the change to mode %s took %.1f s", plan.mode, duration_s)
