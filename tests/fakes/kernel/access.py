"""Access to a function's BAR0 and configuration space from user space, and the lockdown that forbids it."""

import errno
import os
from pathlib import Path

from tests.fakes.kernel.core import Core
from tests.fakes.kernel.state import Function, Words

_LOCKDOWN_MODES = ("none", "integrity", "confidentiality")


class Access:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._lockdown = core.tree.sys / "kernel/security/lockdown"
        self._lockdown.parent.mkdir(parents=True)
        self._is_locked_down = False
        self.lock_down("none")

    def lock_down(self, mode: str) -> None:
        assert mode in _LOCKDOWN_MODES, f"{mode!r} is no lockdown mode"
        self._is_locked_down = mode != "none"
        text = " ".join(f"[{name}]" if name == mode else name for name in _LOCKDOWN_MODES)
        self._core.tree.write(self._lockdown, f"{text}\n", 0o644)

    def open_bar0(self, path: Path) -> "OpenBar0":
        """facts/fsp-and-cc-mode.md, section 5."""
        assert path.name == "resource0", f"{path} is not BAR0"
        function = self._function_of(path)
        if number := self._core.faults.bar0_open.get(function.address):
            raise OSError(number, f"opening it: {os.strerror(number)}", str(path))
        return OpenBar0(self, function)

    def map_bar0(self, function: Function) -> Words:
        """facts/fsp-and-cc-mode.md, section 5; drivers/pci/pci-sysfs.c, pci_mmap_resource."""
        core = self._core
        if number := core.faults.bar0_mmap.get(function.address):
            raise OSError(number, f"mapping it: {os.strerror(number)}")
        if self._is_locked_down:
            raise PermissionError(errno.EPERM, "kernel lockdown forbids it (LOCKDOWN_PCI_ACCESS)")
        if function.is_used_by_vm:
            core.complain(f"BAR0 of {function.address} is mapped while a virtual machine has it open")
        is_claimed = not (function.driver is None or function.driver.shares_dma or core.faults.bar0_is_shared)
        if function.is_used_by_vm or is_claimed:
            raise OSError(errno.EINVAL, "its driver owns the BAR (iomem_is_exclusive)")
        assert function.emulated is not None, f"nothing is attached to {function.address}"
        return function.emulated.bar0()

    def write_config(self, path: Path, offset: int, data: bytes) -> None:
        """drivers/pci/pci-sysfs.c, pci_write_config; it waits while the function resets."""
        function = self._function_of(path)
        if self._is_locked_down:
            raise PermissionError(errno.EPERM, "kernel lockdown forbids it (LOCKDOWN_PCI_ACCESS)")
        with self._core.changed:
            self._core.wait_until(lambda: not function.is_resetting)
            function.config[offset : offset + len(data)] = data
            self._core.show_config(function)

    def _function_of(self, path: Path) -> Function:
        function = self._core.find(path.parent.name)
        if function is None or not path.exists():
            raise FileNotFoundError(errno.ENOENT, "no such attribute", str(path))
        return function


class OpenBar0:
    """An open `resource0`, which may still refuse to be mapped."""

    def __init__(self, access: Access, function: Function) -> None:
        self._access = access
        self._function = function

    def map(self) -> Words:
        """What mmap gives: EPERM under lockdown, EINVAL where a driver owns the BAR."""
        return self._access.map_bar0(self._function)
