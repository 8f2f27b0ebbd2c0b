"""Carry out a change of mode: phase by phase, the devices of a phase at the same time, what fails put back."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from cc_manager.errors import FirmwareError, NotBooted, may_pass
from cc_manager.gpu.access import Access
from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from cc_manager.plan import Check, Phase, Plan, Reset, Stage, Step, Verify
from cc_manager.settings import Settings
from nodelib.at_once import at_once
from nodelib.errors import DeviceError
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """A device on which a step failed."""

    address: PciAddress
    reason: str
    is_final: bool = False
    """Whether its firmware lacks the permission or the knob for it: trying again does not help."""

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class Transition:
    """One change of mode on the devices of *observations*, which were looked at just before."""

    def __init__(
        self,
        access: Access,
        sysfs: Sysfs,
        observations: Iterable[Observation],
        settings: Settings,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._access = access
        self._sysfs = sysfs
        self._devices: Mapping[PciAddress, Observation] = {one.address: one for one in observations}
        self._settings = settings
        self._stopped = stopped

    def check(self, mode: CcMode) -> tuple[Failure, ...]:
        """Ask every idle device that must change whether it will take *mode*, before anybody makes room for it."""
        asked = (one for one in self._devices.values() if one.part and not one.in_use and not one.is_in(mode))
        return self._run(tuple(Check(one.address, mode) for one in asked))

    def carry_out(self, plan: Plan) -> tuple[Failure, ...]:
        """Do all phases, or those before the first in which a device fails; then put the staged knobs back.

        Staged knobs take effect at any reset, and VFIO resets a device whenever a VM opens or closes it: left behind,
        they would switch the next VM's GPU silently. *stopped* is asked before each phase and each further attempt.
        """
        for phase in plan.phases:
            if self._stopped():
                return (*self.put_back(plan.mode), *self._stopped_before(phase))
            if failures := self._run(phase):
                return (*failures, *self.put_back(plan.mode))
        return ()

    def put_back(self, mode: CcMode) -> tuple[Failure, ...]:
        """Stage on every device the mode that is in force there; the devices on which that fails."""
        failures = self._in_parallel([one.address for one in self._devices.values() if one.part], self._put_back)
        return tuple(Failure(f.address, f"mode {mode} may still be staged: {f.reason}") for f in failures)

    def _run(self, phase: Phase) -> tuple[Failure, ...]:
        steps = {step.address: step for step in phase}
        done: list[PciAddress] = []

        def attempt(address: PciAddress) -> None:
            begin = self._access.clock.monotonic()
            self._attempt(steps[address], begin + self._settings.device_timeout_s)
            done.append(address)
            took_s = self._access.clock.monotonic() - begin
            log.info("%s %s (%.1f s, %d of %d)", address, steps[address].done, took_s, len(done), len(steps))

        return self._in_parallel(list(steps), attempt)

    def _attempt(self, step: Step, give_up_at: float) -> None:
        """Do *step*, again if it may pass; a mode that cannot be verified is staged and reset for again.

        A device that did not boot cannot be asked to stage anything, and needs not: knobs outlast a reset.
        """
        steps: tuple[Step, ...] = (step,)
        for left in range(self._settings.device_retries, -1, -1):
            try:
                for each in steps:
                    self._apply(each)
            except DeviceError as error:
                is_late = self._access.clock.monotonic() >= give_up_at
                if not left or is_late or self._stopped() or not may_pass(error):
                    raise
                log.warning("%s; it is tried again", error)
                if isinstance(step, Verify):
                    stage = () if isinstance(error, NotBooted) else (Stage(step.address, step.mode),)
                    steps = (*stage, Reset(step.address), step)
            else:
                return

    def _apply(self, step: Step) -> None:
        log.debug("%s", step)
        part = self._devices[step.address].part
        if part is None:
            raise DeviceError(step.address, "its mode cannot be set")
        match step:
            case Check(address, mode):
                with self._access.opened(address, part) as device:
                    device.check(mode)
            case Stage(address, mode):
                with self._access.opened(address, part) as device:
                    device.stage(mode)
            case Reset(address):
                self._access.check_idle(address)  # a VM may have opened it since it was staged
                self._sysfs.reset(address, self._settings.reset_timeout_s)
            case Verify(address, mode):
                with self._access.opened(address, part) as device:
                    device.prepare()
                    device.wait_for_boot()
                    device.verify(mode)
            case _:
                assert_never(step)

    def _put_back(self, address: PciAddress) -> None:
        one = self._devices[address]
        if one.part is None or one.in_use:
            return
        with self._access.opened(address, one.part) as device:
            device.prepare()
            device.wait_for_boot()
            if writes := device.restore_staged(device.active_mode()):
                log.info("put %d knobs of %s back to its active mode", len(writes), address)

    def _in_parallel(self, addresses: list[PciAddress], do: Callable[[PciAddress], None]) -> tuple[Failure, ...]:
        def attempt(address: PciAddress) -> Failure | None:
            try:
                do(address)
            except DeviceError as error:
                log.warning("%s", error)
                return Failure(address, error.reason, isinstance(error, FirmwareError) and not may_pass(error))
            return None

        return tuple(failure for failure in at_once(attempt, addresses) if failure is not None)

    def _stopped_before(self, phase: Phase) -> tuple[Failure, ...]:
        return tuple(Failure(step.address, f"stopped before: {step}") for step in phase[:1])
