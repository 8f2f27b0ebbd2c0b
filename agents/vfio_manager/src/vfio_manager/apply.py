"""Carry out the steps of a plan: each function on its own, all of them at once, what fails put back."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from nodelib.at_once import at_once
from nodelib.errors import DeviceBusy, DeviceError, DeviceGone, DeviceHung, NodeError
from nodelib.pci import PciAddress
from nodelib.steps import carry_out
from nodelib.sysfs import Sysfs
from vfio_manager.plan import DevicePlan
from vfio_manager.steps import Bind, CheckIdle, ForbidD3cold, KeepAwake, Probe, SetDriverOverride, Step, Unbind

log = logging.getLogger(__name__)

_AT_ONCE = 16
"""Functions that are bound at the same time; the kernel locks one device, not the bus."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A function whose steps did not all succeed."""

    address: PciAddress
    reason: str
    kind: str
    """`busy`, `hung` or `refused`: for metrics."""

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


def apply(step: Step, sysfs: Sysfs, unbind_timeout_s: float) -> None:
    """Do one step. Raises DeviceError; only a later look tells whether it had the effect."""
    match step:
        case ForbidD3cold(address):
            sysfs.set_d3cold_allowed(address, allowed=False)
        case CheckIdle(address):
            _check_idle(address, sysfs)
        case SetDriverOverride(address, driver):
            sysfs.set_driver_override(address, driver)
        case Unbind(address, driver):
            sysfs.unbind(address, driver, unbind_timeout_s)
        case Bind(address, driver):
            sysfs.bind(address, driver)
        case KeepAwake(address):
            sysfs.keep_awake(address)
        case Probe(address):
            sysfs.probe(address)
        case _:
            assert_never(step)


def _check_idle(address: PciAddress, sysfs: Sysfs) -> None:
    """Raises DeviceBusy if a VM has the device, or a function of its IOMMU group, open."""
    use = sysfs.group_use(sysfs.pci_device(address).iommu_group, address)
    if use.open:
        member = use.open[0]
        what = "it" if member == address else f"{member}, of the same IOMMU group,"
        raise DeviceBusy(address, f"a virtual machine opened {what} just now")
    for error in use.unread:
        if not isinstance(error, DeviceGone):  # what left just now is in no VM
            raise error


def apply_all(
    plans: Sequence[DevicePlan],
    sysfs: Sysfs,
    *,
    unbind_timeout_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Failure, ...]:
    """Carry out every device's steps, several devices at once; the failures, in the order of the bus."""
    do = partial(apply, sysfs=sysfs, unbind_timeout_s=unbind_timeout_s)

    def carry_out_one(plan: DevicePlan) -> Failure | None:
        with sysfs.session(plan.address):
            return _carry_out_one(plan, do, stopped)

    return tuple(failure for failure in at_once(carry_out_one, plans, most=_AT_ONCE) if failure is not None)


def _carry_out_one(plan: DevicePlan, do: Callable[[Step], None], stopped: Callable[[], bool]) -> Failure | None:
    done: list[Step] = []

    def do_and_note(step: Step) -> None:
        do(step)
        done.append(step)

    try:
        carry_out(plan.steps, do_and_note, stopped=stopped)
    except DeviceError as error:
        if not isinstance(error, DeviceHung):  # the kernel still holds that one: no further write
            _undo(_what_to_undo(plan, done), do)
        kind = {DeviceBusy: "busy", DeviceHung: "hung"}.get(type(error), "refused")
        return Failure(plan.address, error.reason, kind)
    return None


def _what_to_undo(plan: DevicePlan, done: Iterable[Step]) -> tuple[Step, ...]:
    """What puts back what *done* changed: a device that nothing was done to gets no write at all."""
    kinds = {type(step) for step in done}
    if Bind in kinds:
        return ()  # it is where it belongs; only its power settings are not
    if Unbind in kinds:
        return plan.undo
    return tuple(step for step in plan.undo if isinstance(step, SetDriverOverride) and SetDriverOverride in kinds)


def _undo(steps: Iterable[Step], do: Callable[[Step], None]) -> None:
    """Put back what the device had. What fails here is logged: the next look tells what is there."""
    for step in steps:
        try:
            do(step)
        except NodeError as error:
            log.warning("could not %s: %s", step, error)
        else:
            log.info("%s (put back after the failure)", step)
