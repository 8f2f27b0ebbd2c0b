"""Carry out the steps of a plan: each function on its own, all of them at once, what fails put back."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from nodelib.errors import DeviceBusy, DeviceError, DeviceHung, NodeError
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
            device = sysfs.pci_device(address)
            if device.is_on_vfio_driver and device.enable != 0:
                raise DeviceBusy(address, "a virtual machine opened it just now")
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


def apply_all(
    plans: Sequence[DevicePlan],
    sysfs: Sysfs,
    *,
    unbind_timeout_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Failure, ...]:
    """Carry out every device's steps, several devices at once; the failures, in the order of the bus."""
    if not plans:
        return ()
    do = partial(apply, sysfs=sysfs, unbind_timeout_s=unbind_timeout_s)
    with ThreadPoolExecutor(min(_AT_ONCE, len(plans)), thread_name_prefix="bind") as pool:
        results = list(pool.map(lambda plan: _carry_out_one(plan, do, stopped), plans))
    return tuple(failure for failure in results if failure is not None)


def _carry_out_one(plan: DevicePlan, do: Callable[[Step], None], stopped: Callable[[], bool]) -> Failure | None:
    try:
        carry_out(plan.steps, do, stopped=stopped)
    except DeviceError as error:
        if not isinstance(error, DeviceHung):  # the kernel still holds that one: no further write
            _undo(plan, do)
        kind = {DeviceBusy: "busy", DeviceHung: "hung"}.get(type(error), "refused")
        return Failure(plan.address, error.reason, kind)
    return None


def _undo(plan: DevicePlan, do: Callable[[Step], None]) -> None:
    """Put back what the device had. What fails here is logged: the next look tells what is there."""
    for step in plan.undo:
        try:
            do(step)
        except NodeError as error:
            log.warning("could not %s: %s", step, error)
        else:
            log.info("%s (put back after the failure)", step)
