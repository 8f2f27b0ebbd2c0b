"""Kernel modules: what is loaded, what can be, and which of them takes which device."""

import errno
from pathlib import Path

from tests.fakes.kernel.binding import Binding
from tests.fakes.kernel.core import Core
from tests.fakes.kernel.drivers import KNOWN_DRIVERS, MODULE_ALIASES, Driver
from tests.fakes.kernel.tree import Entry, File, Link


class Modules:
    def __init__(self, core: Core, binding: Binding, release: str) -> None:
        self._core = core
        self._binding = binding
        self._folder = core.tree.sys / "module"
        self._drivers_folder = core.tree.sys / "bus/pci/drivers"
        self._folder.mkdir(parents=True)
        self._drivers_folder.mkdir(parents=True)
        aliases = "".join(f"{line}\n" for line in MODULE_ALIASES).encode()
        core.tree.fill(core.tree.root / "lib/modules" / release, {"modules.alias": File(aliases, 0o644)})

    def load(self, name: str) -> None:
        """What modprobe does: a module's drivers, or a module without any. ENOENT for a module that is not there."""
        drivers = [driver for driver in KNOWN_DRIVERS.values() if driver.module == name]
        if not drivers and name not in {"vhost_vsock", "vhost_net", "kvm_amd", "kvm_intel"}:
            raise FileNotFoundError(errno.ENOENT, f"there is no module {name}")
        self._show_module(name)
        for driver in drivers:
            self.register_driver(driver)

    def register_driver(self, driver: Driver) -> None:
        """A driver that was just loaded: it takes what it matches and nobody has."""
        if self.show_driver(driver):
            self._binding.offer_unbound(driver)

    def show_driver(self, driver: Driver) -> bool:
        """Make it known without letting it take anything; whether it was new."""
        core = self._core
        with core.changed:
            if driver.name in core.drivers:
                return False
            core.drivers[driver.name] = driver
            self._show_module(driver.module)
            folder = self._drivers_folder / driver.name
            module = self._folder / driver.module
            entries: dict[str, Entry] = {name: File(b"", 0o200) for name in ("bind", "unbind", "new_id", "remove_id")}
            core.tree.fill(folder, {**entries, "module": Link(f"../../../../module/{driver.module}")})
            (module / "drivers").mkdir(exist_ok=True)
            core.tree.link(module / "drivers" / f"pci:{driver.name}", folder)
        return True

    def set_parameter(self, module: str, name: str, value: str) -> None:
        self._show_module(module)
        folder = self._folder / module / "parameters"
        folder.mkdir(exist_ok=True)
        self._core.tree.write(folder / name, f"{value}\n", 0o444)

    def _show_module(self, name: str) -> None:
        folder: Path = self._folder / name
        if not folder.exists():
            self._core.tree.fill(folder, {"initstate": File(b"live\n", 0o444), "refcnt": File(b"0\n", 0o444)})
