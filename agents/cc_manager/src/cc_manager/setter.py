"""Brings the devices of a node to a mode, whoever asks: the label or a person at the keyboard."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from cc_manager.apply import Failure, Transition
from cc_manager.firmware_look import KnobReading, read_knobs
from cc_manager.gpu.access import Access
from cc_manager.host import boot_id
from cc_manager.mode import CcMode
from cc_manager.observation import Observation, Verified, with_nvml
from cc_manager.observe import observe, peek
from cc_manager.plan import Plan, plan_transition
from cc_manager.settings import Settings, WhenBusy
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of bringing the devices to a mode."""

    mode: CcMode
    observations: tuple[Observation, ...]
    reasons: tuple[str, ...] = ()
    """Why not all devices are in the mode; empty if they are."""
    waits: bool = False
    """Whether only a device in use is in the way."""
    warnings: tuple[str, ...] = ()
    """What may well be a mistake, although it was done."""

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

    def look(self, *, knobs: bool = False) -> tuple[Observation, ...]:
        """The same with nothing woken, for `status`; without a single write unless the firmware is asked (*knobs*)."""
        return observe(self.node.scan(), self._access, {}, boot_id="", wake=False, knobs=knobs)

    def look_for_people(self, *, knobs: bool = False) -> tuple[tuple[Observation, ...], str]:
        """The same with what the NVIDIA driver says of the GPUs that it holds; and why that cannot be had, if so."""
        from cc_manager.nvml import ask_nvml  # the daemon never asks it

        observations = peek(self.look(knobs=knobs), self._access)
        answer = ask_nvml([one.device for one in observations])
        return with_nvml(observations, answer.states), answer.reason

    def read_knobs(self, only: Collection[PciAddress] | None) -> tuple[KnobReading, ...]:
        """Every knob of every device, or of *only* some, as it is staged; nothing is woken."""
        return read_knobs(self.look(), self._access, only)

    def plan(
        self, observations: tuple[Observation, ...], mode: CcMode, only: Collection[PciAddress] | None = None
    ) -> Plan:
        """What brings the devices, or *only* some of them, from what was observed to *mode*."""
        return plan_transition(observations, mode, self.settings.ppcie_exit, only)

    def set(
        self,
        mode: CcMode,
        only: Collection[PciAddress] | None = None,
        before_change: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Look, plan and bring every device to *mode*, without a node object to remember anything in.

        *before_change* is called before anything is staged, put back or reset, and only then.
        """
        observations = self.observe({}, knobs=True)
        plan = self.plan(observations, mode, only)
        for warning in plan.warnings:
            log.warning("%s", warning)
        # Where the change cannot begin, what is left staged is put back all the same.
        begins = not plan.refusals and not plan.busy
        if not plan.is_done and (begins or any(one.is_left_staged for one in observations)):
            before_change()
        return self.bring_to(plan, observations, {}, only)

    def bring_to(
        self,
        plan: Plan,
        observations: tuple[Observation, ...],
        verified: Mapping[PciAddress, Verified],
        only: Collection[PciAddress] | None = None,
    ) -> Outcome:
        """Carry *plan* out and read back what came of it."""
        mode = plan.mode
        if plan.is_done:
            return Outcome(mode, observations, warnings=plan.warnings)
        if plan.refusals or plan.busy:
            observations, failures = self.put_back(mode, observations, verified)
            reasons = [str(one) for one in (*plan.refusals, *failures)]
            waits = not reasons and self.settings.when_busy is WhenBusy.WAIT
            if plan.busy:
                reasons.append(f"in use by a virtual machine: {self._held(plan.busy, observations)}")
            return Outcome(mode, observations, tuple(reasons), waits, plan.warnings)
        failures = self._transition(observations).carry_out(plan)
        after = self.observe(verified, knobs=True)
        reasons = [str(failure) for failure in failures]
        reasons += [str(one) for one in left_during(observations, after) if str(one) not in reasons]
        if not reasons:
            reasons = [_still(one) for one in after if not one.is_in(mode) and (only is None or one.address in only)]
        return Outcome(mode, after, tuple(reasons), warnings=plan.warnings)

    def check(self, mode: CcMode, observations: tuple[Observation, ...]) -> tuple[Failure, ...]:
        """The idle devices that would not take *mode*, asked of their firmware with nothing changed."""
        return self._transition(observations).check(mode)

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
        return Transition(self._access, self.node.sysfs, observations, self.settings, self.wakeups.stop.is_set)

    def _held(self, busy: Collection[PciAddress], observations: Iterable[Observation]) -> str:
        """The devices that are *busy*, each with who has it open, where that can be seen."""
        held = self.node.holders([one.device for one in observations if one.address in busy])
        return ", ".join(f"{address} by {held[address]}" if held[address].holders else f"{address}" for address in busy)


def left_during(before: Iterable[Observation], after: Iterable[Observation]) -> tuple[Failure, ...]:
    """The devices that were there *before* a change and are not *after* it: such a node is verified in no mode."""
    here = {one.address for one in after}
    return tuple(Failure(one.address, "the device left the bus") for one in before if one.address not in here)


def _still(one: Observation) -> str:
    if one.problem:
        return f"{one.address}: {one.problem}"
    return f"{one.address}: still in mode {one.active or 'unknown'}"
