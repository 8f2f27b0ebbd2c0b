"""Brings the devices of a node to a mode, whoever asks: the label or a person at the keyboard."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cc_manager.access import Access
from cc_manager.apply import Failure, Transition
from cc_manager.host import boot_id
from cc_manager.mode import CcMode
from cc_manager.observation import Observation, Verified
from cc_manager.observe import observe
from cc_manager.plan import Plan, plan_transition
from cc_manager.settings import Settings, WhenBusy
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.wakeups import Wakeups


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
        self.wakeups = wakeups or Wakeups()

    def observe(self, verified: Mapping[PciAddress, Verified], *, knobs: bool) -> tuple[Observation, ...]:
        """The mode of every device now; idle ones are woken for it."""
        this_boot = boot_id(self.node.host)
        return observe(self.node.scan(), self._access, verified, boot_id=this_boot, wake=True, knobs=knobs)

    def look(self) -> tuple[Observation, ...]:
        """The same without a single write, for `status`."""
        return observe(self.node.scan(), self._access, {}, boot_id="", wake=False, knobs=False)

    def set(self, mode: CcMode) -> Outcome:
        """Look, plan and bring every device to *mode*, without a node object to remember anything in."""
        observations = self.observe({}, knobs=True)
        return self.bring_to(plan_transition(observations, mode), observations, {})

    def bring_to(
        self, plan: Plan, observations: tuple[Observation, ...], verified: Mapping[PciAddress, Verified]
    ) -> Outcome:
        """Carry *plan* out and read back what came of it."""
        mode = plan.mode
        if plan.is_done:
            return Outcome(mode, observations)
        if plan.refusals or plan.busy:
            observations, failures = self.put_back(mode, observations, verified)
            reasons = [str(one) for one in (*plan.refusals, *failures)]
            waits = not reasons and self.settings.when_busy is WhenBusy.WAIT
            if plan.busy:
                reasons.append(f"in use by a virtual machine: {', '.join(str(address) for address in plan.busy)}")
            return Outcome(mode, observations, tuple(reasons), waits)
        failures = self._transition(observations).carry_out(plan, self.wakeups.stop.is_set)
        after = self.observe(verified, knobs=True)
        reasons = [str(failure) for failure in failures]
        if not reasons:
            reasons = [_still(one) for one in after if not one.is_in(mode)]
        return Outcome(mode, after, tuple(reasons))

    def put_back(
        self, mode: CcMode, observations: tuple[Observation, ...], verified: Mapping[PciAddress, Verified]
    ) -> tuple[tuple[Observation, ...], tuple[Failure, ...]]:
        """Have no device change its mode at its next reset, where no change to *mode* is begun; what is there then.

        An earlier change that was cut short leaves knobs staged, and a VM that opens such a device resets it.
        """
        left_staged = [one for one in observations if one.is_left_staged]
        if not left_staged:
            return observations, ()
        failures = self._transition(left_staged).put_back(mode)
        return self.observe(verified, knobs=True), failures

    def _transition(self, observations: Iterable[Observation]) -> Transition:
        return Transition(self._access, self.node.sysfs, observations, reset_timeout_s=self.settings.reset_timeout_s)


def _still(one: Observation) -> str:
    if one.problem:
        return f"{one.address}: {one.problem}"
    return f"{one.address}: still in mode {one.active or 'unknown'}"
