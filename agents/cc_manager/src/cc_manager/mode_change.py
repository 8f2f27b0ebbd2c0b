"""One change of the node's mode, in the steps of DESIGN section 4: who must be gone first, the change, who comes back.

Planning and publishing the result is the reconciler's. Whatever happens here, the node says that it is ready for nobody
from before the first effect on, and the next start finds in labels and devices all that it needs to go on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cc_manager.apply import Failure
from cc_manager.clock import Clock
from cc_manager.cluster import labels
from cc_manager.cluster.holders import Busy
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.cluster.labels import NodeView
from cc_manager.cluster.pause import Pause
from cc_manager.drift import lost_devices
from cc_manager.look import Look
from cc_manager.mode import CcMode
from cc_manager.plan import Plan, Reset
from cc_manager.rest import Rest
from cc_manager.room import Room
from cc_manager.setter import ModeSetter
from cc_manager.settings import ClusterSettings
from nodelib.pod_resources import PodResourcesError

STOPPED = "stopped"
"""The code of an attempt that ended because the process is to end: no failure, the next start goes on."""
_EVICTING_S = 20.0
"""For evicted pods to end within one round; then the label is looked at again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of an attempt to bring the node to its mode."""

    look: Look
    """The devices afterwards."""
    view: NodeView
    """The node's labels as last read."""
    reasons: tuple[str, ...] = ()
    """Why not all devices are in the mode; empty if they are."""
    code: str = ""
    """What kind of failure it is, short and stable, for metrics."""
    waits: bool = False
    """Whether only somebody who will go is in the way."""


class ModeChange:
    """Changes the node's mode, with nobody using its devices meanwhile."""

    def __init__(
        self,
        setter: ModeSetter,
        kube_node: KubeNode,
        pause: Pause,
        room: Room,
        settings: ClusterSettings,
        clock: Clock,
    ) -> None:
        self._setter = setter
        self._clock = clock
        self.rest = Rest(clock)
        """Whoever plans attempts asks it first, and begins it after one that failed with operands paused."""
        self._kube_node = kube_node
        self._pause = pause
        self._room = room
        self._settings = settings

    def attempt(self, plan: Plan, look: Look, view: NodeView) -> Attempt:
        """Bring the node to the mode of *plan*, or say why not; operands may be paused afterwards.

        Raises ApiError; the next round then goes on.
        """
        if plan.is_done:
            self._room.is_made()
            return Attempt(look, view)
        if plan.refusals:  # 1. every device can be brought there, or nothing is touched
            return self._give_up(plan.mode, look, view, map(str, plan.refusals), plan.refusals[0].problem.code)
        if not plan.busy and not any(isinstance(step, Reset) for step in plan.steps):
            # Knobs are only put back to what is in force: nobody has to be gone for that, and it cannot wait.
            return self._carry_out(plan, look, view)
        if failures := self._ask(plan, look):  # 1. as well: idle devices themselves are asked
            return self._refuse(plan.mode, failures, look, view)
        try:
            return self._change(plan, look, view)
        except PodResourcesError as error:
            reason = f"nobody can tell which pods have the devices: {error}"
            return self._give_up(plan.mode, look, view, (reason,), "pod-resources")

    def put_back(self, mode: CcMode, look: Look, view: NodeView) -> tuple[Look, NodeView, tuple[str, ...]]:
        """Have no idle device change its mode at its next reset; what is there then, and where that failed."""
        if left := {one.address for one in look.observations if one.is_left_staged}:
            view = self._kube_node.publish(labels.putting_back(look.devices(changing=left)), view)
        observations, failures = self._setter.put_back(mode, look.observations, look.verified)
        return look.with_observations(observations), view, tuple(map(str, failures))

    def _ask(self, plan: Plan, look: Look) -> tuple[Failure, ...]:
        """The devices that would not take the mode of *plan*; nobody is evicted from one that once said so."""
        failures = self._setter.check(plan.mode, look.observations)
        self.rest.remember(plan.mode, failures, unasked=plan.busy)
        return failures or (self.rest.refusals(plan.mode, plan.busy) if self._room.evicts else ())

    def _change(self, plan: Plan, look: Look, view: NodeView) -> Attempt:
        mode = plan.mode
        if busy := self._room.in_the_way(mode, look):  # 3. before anything is paused
            if self._room.evicts:
                view = self._kube_node.publish(labels.waiting(mode, str(busy), look.devices()), view)
                busy = self._room.wait(mode, look, _EVICTING_S)
            if busy:
                return self._not_now(mode, busy, look, view)
        if plan.busy:  # 1. for those that nobody could ask before
            plan, look = self._look_again(mode, look)
            if plan.refusals:
                return self._give_up(mode, look, view, map(str, plan.refusals), plan.refusals[0].problem.code)
            if failures := self._ask(plan, look):
                return self._refuse(mode, failures, look, view)
        return self._pause_and_change(mode, look, view)

    def _pause_and_change(self, mode: CcMode, look: Look, view: NodeView) -> Attempt:
        view = self._say_changing(mode, look, view)  # 2. ready is empty from here on
        ends_at = self._clock.monotonic() + self._settings.operand_timeout_s
        view, problem = self._pause.begin(view)  # 4. their pods are gone: no new Allocate is possible
        if problem:
            return self._give_up(mode, look, view, (problem,), "operands")
        if busy := self._room.wait(mode, look, ends_at - self._clock.monotonic()):
            return self._not_now(mode, busy, look, view)
        self._room.is_made()
        plan, look = self._look_again(mode, look)
        if plan.refusals:
            return self._give_up(mode, look, view, map(str, plan.refusals), plan.refusals[0].problem.code)
        if plan.busy:
            return self._not_now(mode, Busy(plan.busy), look, view)
        return self._carry_out(plan, look, view)

    def _look_again(self, mode: CcMode, look: Look) -> tuple[Plan, Look]:
        """The devices as they are once somebody has gone; one that is gone as well is a refusal."""
        look = look.with_observations(self._setter.observe(look.verified, knobs=True))
        plan = self._setter.plan(look.observations, mode)
        return replace(plan, refusals=(*lost_devices(look.missing), *plan.refusals)), look

    def _carry_out(self, plan: Plan, look: Look, view: NodeView) -> Attempt:
        """5. Stage all, reset all, verify all; what fails is put back."""
        view = self._say_changing(plan.mode, look, view)
        outcome = self._setter.bring_to(plan, look.observations, look.verified)
        look = look.with_observations(outcome.observations)
        reasons = outcome.reasons or tuple(map(str, lost_devices(look.missing)))
        return self._ended(look, view, reasons, "device")

    def _say_changing(self, mode: CcMode, look: Look, view: NodeView) -> NodeView:
        return self._kube_node.publish(labels.changing(mode, look.devices(changing=look.not_in(mode))), view)

    def _not_now(self, mode: CcMode, busy: Busy, look: Look, view: NodeView) -> Attempt:
        reasons, waits = self._room.why_not(busy)
        return self._give_up(mode, look, view, reasons, "in-use", waits=waits)

    def _refuse(self, mode: CcMode, failures: Iterable[Failure], look: Look, view: NodeView) -> Attempt:
        self._room.is_made()  # none is needed: an eviction at another time has a deadline of its own
        return self._give_up(mode, look, view, map(str, failures), "device-refuses")

    def _give_up(
        self, mode: CcMode, look: Look, view: NodeView, reasons: Iterable[str], code: str, *, waits: bool = False
    ) -> Attempt:
        """Nothing is begun; what an earlier change left staged is put back all the same."""
        look, view, failures = self.put_back(mode, look, view)
        return self._ended(look, view, (*reasons, *failures), code, waits=waits and not failures)

    def _ended(
        self, look: Look, view: NodeView, reasons: tuple[str, ...], code: str, *, waits: bool = False
    ) -> Attempt:
        if reasons and self._setter.wakeups.stop.is_set():
            code, waits = STOPPED, False
        return Attempt(look, view, reasons, code if reasons else "", waits)
