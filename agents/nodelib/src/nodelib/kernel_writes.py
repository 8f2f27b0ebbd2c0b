"""Writes to sysfs attributes: at once, or in a child process with a deadline where the kernel may not return."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from nodelib import write_attribute
from nodelib.errors import DeviceHung
from nodelib.pci import PciAddress

_CHILD = (sys.executable, "-I", "-S", write_attribute.__file__)


class KernelWriter:
    """The last inch before the kernel; the simulated node of the tests puts its own kernel here."""

    def __init__(self, child: Sequence[str] = _CHILD) -> None:
        self._child = tuple(child)
        self._abandoned: dict[PciAddress, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def write(self, address: PciAddress, path: Path, value: str) -> None:
        """Write *value* for the device at *address*. Raises OSError, or DeviceHung while an earlier write hangs."""
        self._refuse_while_hung(address)
        if number := self._write_now(path, value):
            raise OSError(number, os.strerror(number), str(path))

    def write_within(self, address: PciAddress, path: Path, value: str, timeout_s: float) -> None:
        """The same in a child process, for writes that can block in the kernel (`unbind`, `reset`).

        Raises DeviceHung when *timeout_s* is over: the child is killed, but a process inside the kernel dies only
        when the kernel lets go, so it is not waited for, and the device gets no further write while it lives.
        """
        self._refuse_while_hung(address)
        child = subprocess.Popen(
            [*self._child, str(path), value],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            answer, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            if child.stdout:
                child.stdout.close()
            with self._lock:
                self._abandoned[address] = child
            raise DeviceHung(
                address,
                f"the kernel did not finish the write to {path} within {timeout_s:g} s; it may still hold the "
                f"device: see the kernel log and `cat /proc/{child.pid}/stack`",
            ) from None
        if answer == b"0":
            return
        number = int(answer) if answer.isdigit() else 0
        if not number:
            raise OSError(5, f"the process that writes died with status {child.returncode}", str(path))
        raise OSError(number, os.strerror(number), str(path))

    def write_config(self, address: PciAddress, path: Path, offset: int, data: bytes) -> None:
        """Write *data* into configuration space, whose file is *path*. Raises OSError or DeviceHung."""
        self._refuse_while_hung(address)
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)

    def _write_now(self, path: Path, value: str) -> int:
        return write_attribute.write_attribute(str(path), value)

    def _refuse_while_hung(self, address: PciAddress) -> None:
        with self._lock:
            child = self._abandoned.get(address)
            if child is None:
                return
            if child.poll() is None:
                raise DeviceHung(address, f"the kernel still holds an earlier write (process {child.pid})")
            del self._abandoned[address]
