"""Resets of one function, during which its configuration space cannot be read.

Linux 6.12, drivers/pci/pci.c (pci_reset_function, pci_dev_lock) and access.c (pci_cfg_access_lock); durations:
facts/fsp-and-cc-mode.md, section 7.
"""

import errno

from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.power import settle_power
from tests.fakes.kernel.state import Function


class Resets:
    def __init__(self, core: Core) -> None:
        self._core = core

    def on_request(self, function: Function) -> None:
        """What a write to `reset` does: waits for the device's lock, then resets."""
        core = self._core
        if function.is_used_by_vm:
            core.complain(f"{function.address} is reset while a virtual machine has it open")
        with core.locked(function):
            core.meet_faults(function, "reset")
            if not function.is_here:
                raise Refused(errno.ENODEV, f"{function.address} left the bus")
            self.run(function)

    def run(self, function: Function) -> None:
        """Reset the function, whose lock the caller holds. Raises ENOTTY where it does not come back."""
        core = self._core
        config = function.folder / "config"
        with core.changed:
            function.is_resetting = True
            core.files.hold(config)
            settle_power(core, function)  # it is woken before its state is saved (pci_dev_save_and_disable)
            core.tell_emulated(function)
        try:
            self._wait_for_return(function)
        finally:
            with core.changed:
                function.is_resetting = False
                core.show_config(function)  # the command register is restored from what was saved
                core.files.give_back(config)
                settle_power(core, function)

    def _wait_for_return(self, function: Function) -> None:
        core = self._core
        if not function.is_off_bus and function.emulated is not None:
            function.emulated.reset()
            function.is_off_bus = function.emulated.gone
        if function.is_off_bus:
            core.pause(core.faults.lost_reset_s)
            raise Refused(errno.ENOTTY, f"{function.address} does not come back (drivers/pci/pci.c, pci_dev_wait)")
        core.pause(core.faults.reset_s_of.get(function.address, core.faults.reset_s))
        if function.is_off_bus:
            raise Refused(errno.ENOTTY, f"{function.address} fell off the bus during its reset")
