"""Runtime power management of one function: who wakes it, and when it sleeps.

Linux 6.12, drivers/vfio/pci/vfio_pci_core.c: a bind allows runtime power management and drops the only use, so the
idle function goes to D3hot whatever it was before; the last close does the same. drivers/pci/pci-driver.c: a function
without a driver, or whose driver knows nothing of it, stays in D0.
"""

import errno

from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.state import Function, PowerState


def settle_power(core: Core, function: Function) -> None:
    """Put the function into the state that its driver, its users and `power/control` call for now."""
    state = _wanted(function)
    if state == function.power_state:
        return
    function.power_state = state
    core.set_attribute(function, "power_state", state)
    core.set_attribute(function, "power/runtime_status", "active" if state == "D0" else "suspended")
    core.tell_emulated(function)


def set_power_control(core: Core, function: Function, control: str) -> None:
    """`on` keeps it awake, `auto` lets it sleep."""
    if control not in ("on", "auto"):
        raise Refused(errno.EINVAL, "power/control takes on or auto (drivers/base/power/sysfs.c, control_store)")
    function.power_control = control
    core.set_attribute(function, "power/control", control)
    settle_power(core, function)


def _wanted(function: Function) -> PowerState:
    idle_on_vfio = function.vfio is not None and not function.vfio.users and not function.vfio.is_leaving
    if not idle_on_vfio or function.power_control == "on" or function.is_resetting:
        return "D0"
    return "D3cold" if function.hardware.sleeps_cold and function.d3cold_allowed else "D3hot"
