"""One round of cc-manager: what the label asks for, what the devices are in, the change, and the truth on the node."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from cc_manager.by_hand_marker import still_believed, utc_now
from cc_manager.cluster import labels
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.cluster.labels import NodeView, Publication
from cc_manager.cluster.notices import Notices
from cc_manager.cluster.pause import Pause
from cc_manager.drift import drift_from, lost_devices
from cc_manager.host import boot_id, has_tee
from cc_manager.lock import mode_lock
from cc_manager.look import Look
from cc_manager.measures import Measures
from cc_manager.mode import CcMode
from cc_manager.mode_change import STOPPED, Attempt, ModeChange
from cc_manager.plan import Plan
from cc_manager.setter import ModeSetter
from cc_manager.settings import LOCK_FILE, Drift
from nodelib.daemon import Daemon, RoundResult
from nodelib.errors import InvalidValue
from nodelib.metrics import Histogram, Metric
from nodelib.pci import PciAddress
from nodelib.ready_file import ReadyFile
from nodelib.running import run_until_stopped
from nodelib.settings import DaemonSettings

log = logging.getLogger(__name__)

UEVENT_SUBSYSTEMS = ("pci", "vfio")


class Reconciler:
    """Keeps the node in the mode that its label asks for, and its labels true."""

    def __init__(
        self,
        setter: ModeSetter,
        kube_node: KubeNode,
        pause: Pause,
        change: ModeChange,
        notices: Notices,
        drift: Drift = Drift.MEND,
    ) -> None:
        self._setter = setter
        self._kube_node = kube_node
        self._pause = pause
        self._change = change
        self._notices = notices
        self._rest = change.rest
        self._drift = drift
        self._settings = setter.settings
        self._measures = Measures()
        self._failed_attempts = 0
        self._failure = RoundResult(ready=False)
        self._ready_file = ReadyFile(setter.node.host, setter.settings.ready_file)

    def run(self, daemon: DaemonSettings) -> None:
        """Rounds until the wake-ups' stop event; devices, labels and modes then stay as they are.

        Raises NodeError if another cc-manager of this node is at work.
        """
        wakeups = self._setter.wakeups
        watcher = threading.Thread(
            target=self._kube_node.watch, args=(self._touch, wakeups.stop), name="label-watch", daemon=True
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
        begin = time.monotonic()
        view = self._pause.claim(self._kube_node.view())
        try:
            mode = labels.desired_mode(
                view.labels, self._settings.default_mode, host_capable=has_tee(self._setter.node.sysfs)
            )
        except InvalidValue as error:
            return self._refuse_label(view, str(error))
        look = self._look(view)
        if not look.observations and not look.missing:
            return self._say_nothing_there(view, look)
        plan = self._setter.plan(look.observations, mode)
        if look.missing:
            plan = replace(plan, refusals=(*plan.refusals, *lost_devices(look.missing)))
            self._notices.lost("; ".join(map(str, lost_devices(look.missing))))
        elif drift := drift_from(view, look.observations, mode):
            self._notices.drifted(drift)
            if self._drift is Drift.REPORT:
                return self._report_drift(view, look, drift)
        if self._may_rest(plan, look, view):
            return self._failure
        self._notices.doubtful("; ".join(plan.warnings))
        if not plan.is_done:
            self._ready_file.retract()
        attempt = self._change.attempt(plan, look, view)
        view, stuck = self._pause.end(attempt.view, attempt.look)
        result = self._publish(plan, replace(attempt, view=view), stuck, time.monotonic() - begin)
        if attempt.reasons and not attempt.waits and self._pause.is_on(attempt.view):
            self._rest.begin(mode)
        return result

    def _may_rest(self, plan: Plan, look: Look, view: NodeView) -> bool:
        """Whether an attempt that failed a while ago is not made again yet; what it left undone never waits."""
        is_tidy = not self._pause.is_on(view) and not any(one.is_left_staged for one in look.observations)
        return bool(plan.phases or plan.busy) and is_tidy and self._rest.is_on(plan.mode)

    def _touch(self, reason: str) -> None:
        """Somebody wrote a label that concerns us: the documented way to ask for another attempt."""
        self._rest.end()
        self._setter.wakeups.wake(reason)

    def metrics(self) -> Iterable[Metric | Histogram]:
        return self._measures.metrics()

    def _look(self, view: NodeView) -> Look:
        text = view.annotations.get(labels.DEVICES)
        this_boot = boot_id(self._setter.node.host)
        verified = still_believed(self._setter.node.host, labels.parse_verified(text))
        observations = self._setter.observe(verified, knobs=True)
        self._measures.observations = observations
        missing = labels.devices_of_this_boot(text, this_boot) - {one.address for one in observations}
        return Look(observations, verified, tuple(sorted(missing)), this_boot, utc_now())

    # --- 7. what the node says in the end

    def _publish(self, plan: Plan, attempt: Attempt, stuck: tuple[PciAddress, ...], duration_s: float) -> RoundResult:
        mode, look, view = plan.mode, attempt.look, attempt.view
        self._measures.observations = look.observations
        reason = "; ".join((*attempt.reasons, *self._why_stuck(stuck)))
        if attempt.code == STOPPED:
            # What was said when the change began still holds; the next start goes on.
            return RoundResult(ready=False, message=f"stopped on the way to mode {mode}: {reason}", retry=True)
        if attempt.waits:
            said = labels.waiting(mode, reason, look.devices())
            self._notices.waits(said.message)
            self._tell(view, said)
            return RoundResult(ready=False, message=said.message, retry=True)
        if reason:
            return self._fail(view, reason, attempt.code, look.devices())
        said = labels.succeeded(mode, look.devices(), len(look.observations))
        if not plan.is_done:
            self._measures.changed(mode, duration_s)
            log.info("the change to mode %s took %.1f s", mode, duration_s)
        if view.labels.get(labels.STATE) != mode.value:
            self._notices.changed(said.message)
        self._failed_attempts = 0
        self._rest.forget()
        self._notices.settled()
        self._tell(view, said)
        return RoundResult(ready=True, message=said.message)

    def _refuse_label(self, view: NodeView, reason: str) -> RoundResult:
        """The label is no mode: no device is touched, but for what a change that was cut short left behind."""
        known = view.annotations.get(labels.DEVICES)
        is_unfinished = labels.has_unverified(known, boot_id(self._setter.node.host))
        if not (is_unfinished or labels.is_changing(view.annotations) or self._pause.is_on(view)):
            return self._fail(view, reason, "unknown-mode", None, retry=False)
        look, view, failures = self._change.put_back(CcMode.OFF, self._look(view), view)
        view, stuck = self._pause.end(view, look)
        reason = "; ".join((reason, *failures, *self._why_stuck(stuck)))
        return self._fail(view, reason, "unknown-mode", look.devices(), retry=bool(stuck or failures))

    def _report_drift(self, view: NodeView, look: Look, drift: str) -> RoundResult:
        view, stuck = self._pause.end(view, look)
        said = labels.drifted("; ".join((drift, *self._why_stuck(stuck))), look.devices())
        self._tell(view, said)
        return RoundResult(ready=False, message=said.message)

    def _say_nothing_there(self, view: NodeView, look: Look) -> RoundResult:
        """Both ready values mean "verified", and of nothing nobody can say that."""
        view, _ = self._pause.end(view, look)
        self._tell(view, labels.nothing_there())
        return RoundResult(ready=False, message=labels.nothing_there().message)

    def _fail(self, view: NodeView, reason: str, code: str, devices: str | None, *, retry: bool = True) -> RoundResult:
        self._failed_attempts += 1
        self._measures.failed(code)
        self._notices.failed(reason, self._failed_attempts)
        self._tell(view, labels.failed(reason, devices))
        again = f"attempt {self._failed_attempts}: " if self._failed_attempts > 1 else ""
        self._failure = RoundResult(ready=False, message=f"{again}{reason}", retry=retry)
        return self._failure

    def _why_stuck(self, stuck: tuple[PciAddress, ...]) -> tuple[str, ...]:
        if not stuck:
            return ()
        devices = ", ".join(map(str, stuck))
        reason = f"operands stay paused, because the next reset may change the mode of {devices}"
        self._notices.stuck(reason)
        return (reason,)

    def _tell(self, view: NodeView, publication: Publication) -> None:
        if publication.state in (None, labels.FAILED):
            self._ready_file.retract()
            self._kube_node.publish(publication, view)
        else:
            self._kube_node.publish(publication, view)
            self._ready_file.tell(ready=True)
