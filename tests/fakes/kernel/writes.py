"""From a path below /sys and the written text to what the kernel does about it."""

import errno
import os
import re
import threading
from pathlib import Path

from tests.fakes.kernel.binding import Binding
from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.hotplug import Hotplug
from tests.fakes.kernel.power import set_power_control, settle_power
from tests.fakes.kernel.resets import Resets
from tests.fakes.kernel.state import Function

_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)\n?")


class Writes:
    def __init__(self, core: Core, binding: Binding, resets: Resets, hotplug: Hotplug) -> None:
        self.log: list[tuple[str, str]] = []
        """Every write so far: the path below /sys and the value."""
        self._core = core
        self._binding = binding
        self._resets = resets
        self._hotplug = hotplug
        self._logging = threading.Lock()

    def write(self, path: Path, value: str) -> int:
        """The errno of the write, or 0."""
        sys = self._core.tree.sys
        assert path.is_relative_to(sys), f"a write to {path}, which is not below the simulated {sys}"
        below = str(path.relative_to(sys))
        with self._logging:
            self.log.append((below, value))
        if self._core.faults.before_write:
            self._core.faults.before_write(below, value)
        try:
            real = self._open(path)
            # A write of no bytes does not reach the attribute (Linux, fs/sysfs/file.c, sysfs_kf_write).
            if value:
                self._store(real, value)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _open(self, path: Path) -> Path:
        """The attribute's real place. Raises what open(2) for writing does."""
        if self._core.faults.is_read_only:
            raise Refused(errno.EROFS, "/sys is mounted read-only")
        real = Path(os.path.realpath(path))
        mode = real.stat().st_mode
        if real.is_dir():
            raise Refused(errno.EISDIR, str(path))
        if not mode & 0o222:
            raise Refused(errno.EACCES, "not even root may write it (Linux, fs/kernfs/file.c, kernfs_fop_open)")
        return real

    def _store(self, real: Path, value: str) -> None:
        match real.relative_to(self._core.tree.sys).parts:
            case ("bus", "pci", "drivers_probe"):
                self._binding.probe(value)
            case ("bus", "pci", "rescan"):
                if _number(value):
                    self._hotplug.rescan()
            case ("bus", "pci", "drivers", driver, verb):
                self._store_driver(driver, verb, value)
            case _:
                function, name = self._attribute(real)
                self._store_attribute(function, name, value)

    def _store_driver(self, name: str, verb: str, value: str) -> None:
        driver = self._core.drivers.get(name)
        if driver is None:
            raise Refused(errno.ENOENT, f"driver {name} is not loaded")
        match verb:
            case "bind":
                self._binding.bind(driver, value)
            case "unbind":
                self._binding.unbind(driver, value)
            case "new_id":
                self._binding.add_id(driver, value)
            case "remove_id":
                self._binding.remove_id(driver, value)
            case _:
                self._refuse_unknown(f"drivers/{name}/{verb}")

    def _attribute(self, real: Path) -> tuple[Function, str]:
        for folder in real.parents:
            function = self._core.find(folder.name)
            if function is not None and function.folder == folder:
                return function, str(real.relative_to(folder))
        raise Refused(errno.ENODEV, f"{real} belongs to no device that is there")

    def _store_attribute(self, function: Function, name: str, value: str) -> None:
        core = self._core
        match name:
            case "reset":
                if _number(value) != 1:
                    raise Refused(errno.EINVAL, "reset takes 1 (reset_store)")
                self._resets.on_request(function)
                return
            case "remove":
                core.meet_faults(function, name)
                if _number(value):
                    self._hotplug.remove(function)
                return
        core.meet_faults(function, name)
        match name:
            case "driver_override":
                self._binding.set_override(function, value)
            case "power/control":
                with core.locked(function), core.changed:
                    set_power_control(core, function, value.removesuffix("\n"))
            case "d3cold_allowed":
                with core.changed:
                    function.d3cold_allowed = bool(_number(value))
                    core.set_attribute(function, name, str(int(function.d3cold_allowed)))
                    settle_power(core, function)
            case "enable":
                self._store_enable(function, _number(value))
            case _:
                self._refuse_unknown(f"{function.address}/{name}")

    def _store_enable(self, function: Function, value: int) -> None:
        """enable_store: EBUSY while any driver holds the function, EIO where it was not enabled."""
        core = self._core
        core.complain(f"enable of {function.address} is written: by agreement nobody does")
        with core.locked(function), core.changed:
            if function.driver is not None:
                raise Refused(errno.EBUSY, f"{function.address} has a driver")
            if not value and not function.enable_count:
                raise Refused(errno.EIO, f"{function.address} is not enabled")
            core.set_enable_count(function, function.enable_count + (1 if value else -1))

    def _refuse_unknown(self, what: str) -> None:
        self._core.complain(f"{what} is written, which the simulated kernel does not know")
        raise Refused(errno.EIO, f"{what} is not simulated")


def _number(text: str) -> int:
    """kstrtoul: decimal or hexadecimal, a newline may follow."""
    if found := _NUMBER.fullmatch(text):
        return int(found[1], 0)
    raise Refused(errno.EINVAL, f"{text!r} is no number")
