"""Binding devices to drivers and taking them away again.

Linux 6.12: drivers/base/bus.c (bind_store, unbind_store, drivers_probe_store), drivers/base/dd.c (really_probe,
__device_release_driver), drivers/pci/pci-driver.c (pci_match_device, new_id_store).
"""

import contextlib
import errno
from collections.abc import Sequence

from tests.fakes.kernel.attributes import uevent_text
from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.drivers import Driver, IdMatch
from tests.fakes.kernel.state import Function
from tests.fakes.kernel.vfio import Vfio


class Binding:
    def __init__(self, core: Core, vfio: Vfio) -> None:
        self._core = core
        self._vfio = vfio
        self._drivers_folder = core.tree.sys / "bus/pci/drivers"

    # --- the verbs

    def bind(self, driver: Driver, name: str) -> None:
        function = self._core.find(name)
        if function is None or not self._matches(driver, function):
            raise Refused(errno.ENODEV, f"{driver.name} does not match {name.strip()}")
        with self._core.locked(function):
            if not function.is_here:
                raise Refused(errno.ENODEV, f"{function.address} left the bus")
            if function.driver is not None:
                raise Refused(errno.EBUSY, f"{function.address} has driver {function.driver.name}")
            self._probe(function, driver)

    def unbind(self, driver: Driver, name: str) -> None:
        function = self._core.find(name)
        if function is None or function.driver is not driver:
            raise Refused(errno.ENODEV, f"{driver.name} does not hold {name.strip()}")
        with self._core.locked(function):
            self._core.meet_faults(function, "unbind")
            if function.driver is driver:
                self.release(function)

    def probe(self, name: str) -> None:
        """drivers_probe: tells only whether the device exists, never what a driver said."""
        function = self._core.find(name)
        if function is None:
            raise Refused(errno.ENODEV, f"there is no device {name.strip()}")
        self._core.meet_faults(function, "drivers_probe")
        self.attach_any(function)

    def attach_any(self, function: Function) -> None:
        """Offer the function to the drivers in the order of their loading, until one takes it."""
        with self._core.locked(function):
            for driver in tuple(self._core.drivers.values()):
                if function.driver is not None or not function.is_here:
                    return
                if self._matches(driver, function):
                    self._probe_quietly(function, driver)

    def set_override(self, function: Function, value: str) -> None:
        """driver_set_override: up to the first newline; nothing before it lifts the override."""
        if len(value) >= 4095:
            raise Refused(errno.EINVAL, "longer than a page")
        with self._core.locked(function):
            function.override = value.split("\0", 1)[0].split("\n", 1)[0] or None
            self._core.set_attribute(function, "driver_override", function.override or "(null)")

    def add_id(self, driver: Driver, value: str) -> None:
        wanted = _parse_id(value)
        known = self._core.dynamic_ids.setdefault(driver.name, [])
        if wanted in known:
            raise Refused(errno.EEXIST, f"{driver.name} has this id")
        known.append(wanted)
        self.offer_unbound(driver)

    def remove_id(self, driver: Driver, value: str) -> None:
        known = self._core.dynamic_ids.get(driver.name, [])
        wanted = _parse_id(value)
        if wanted not in known:
            raise Refused(errno.ENODEV, f"{driver.name} was given no such id")
        known.remove(wanted)

    def offer_unbound(self, driver: Driver) -> None:
        """driver_attach: a driver that was just loaded takes every unbound device that it matches."""
        for function in list(self._core.functions.values()):
            if function.driver is None and self._matches(driver, function):
                with self._core.locked(function):
                    if function.driver is None and function.is_here:
                        self._probe_quietly(function, driver)

    # --- how

    def start_bound(self, function: Function, driver: Driver) -> None:
        """The function was bound before anybody looked."""
        function.driver = driver
        self._link(function, driver)
        self._take(function, driver)

    def release(self, function: Function) -> None:
        """Take the function, whose lock the caller holds, from its driver, whose users are waited for."""
        core, driver = self._core, function.driver
        assert driver is not None
        # The links go first (driver_sysfs_remove), so that while a removal waits sysfs shows no driver at all.
        with core.changed:
            core.tree.remove(function.folder / "driver")
            core.tree.remove(self._drivers_folder / driver.name / str(function.address))
        if function.vfio is not None:
            self._vfio.unregister(function)
        elif driver.waits_for_users:
            with core.changed:
                core.wait_until(lambda: not function.users)
        core.pause(core.faults.unbind_s)
        with core.changed:
            function.driver = None
            if function.enable_count:
                core.set_enable_count(function, 0)
            core.set_attribute(function, "uevent", uevent_text(function.hardware, None).rstrip("\n"))
        core.emit("unbind", "pci", function)

    def _matches(self, driver: Driver, function: Function) -> bool:
        if function.override is not None:
            return function.override == driver.name  # exactly, dashes and underscores included
        ids: Sequence[IdMatch] = (*driver.ids, *self._core.dynamic_ids.get(driver.name, ()))
        return any(wanted.matches(function.hardware) for wanted in ids)

    def _probe_quietly(self, function: Function, driver: Driver) -> None:
        with contextlib.suppress(Refused):  # "ignore errors returned by ->probe" (call_driver_probe)
            self._probe(function, driver)

    def _probe(self, function: Function, driver: Driver) -> None:
        core, group = self._core, function.group
        if not driver.shares_dma and group is not None and group.owner is not None:
            reason = f"a virtual machine owns group {group.number}"
            raise Refused(errno.EBUSY, f"{reason} (drivers/iommu/iommu.c, iommu_device_use_default_domain)")
        with core.changed:
            function.driver = driver
            self._link(function, driver)  # before the driver is asked, as really_probe does
        try:
            core.pause(core.faults.bind_s)
            core.meet_faults(function, "bind")
            if driver.is_vfio:
                self._vfio.check(function)
        except Refused:
            with core.changed:
                function.driver = None
                self._unlink(function, driver)
            raise
        self._take(function, driver)
        core.emit("bind", "pci", function)

    def _take(self, function: Function, driver: Driver) -> None:
        if driver.is_vfio:
            self._vfio.register(function)
        else:
            self._core.set_enable_count(function, 1)

    def _link(self, function: Function, driver: Driver) -> None:
        core, folder = self._core, self._drivers_folder / driver.name
        core.tree.link(folder / str(function.address), function.folder)
        core.tree.link(function.folder / "driver", folder)
        core.set_attribute(function, "uevent", uevent_text(function.hardware, driver.name).rstrip("\n"))

    def _unlink(self, function: Function, driver: Driver) -> None:
        core = self._core
        core.tree.remove(function.folder / "driver")
        core.tree.remove(self._drivers_folder / driver.name / str(function.address))
        core.set_attribute(function, "uevent", uevent_text(function.hardware, None).rstrip("\n"))


def _parse_id(value: str) -> IdMatch:
    """`10de 2330`, up to seven hexadecimal fields of which the first two are needed (new_id_store)."""
    try:
        vendor, device, *_ = (int(field, 16) for field in value.split())
    except ValueError:
        raise Refused(errno.EINVAL, "an id is vendor and device in hexadecimal") from None
    return IdMatch(vendor, device)
