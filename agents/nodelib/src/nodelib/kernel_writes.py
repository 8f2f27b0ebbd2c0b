"""Writes to a device's files, each with a deadline, in a child process that can be left behind.

The kernel takes the device's lock for most of them, and a driver's unbind can wait for its users for ever: a write in
this process would hang it, and a thread inside the kernel cannot be ended.
"""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nodelib import write_attribute
from nodelib.errors import DeviceHung
from nodelib.pci import PciAddress

QUICK_S = 5.0
"""For writes that take microseconds unless somebody else holds the device's lock."""

_CHILD = (sys.executable, "-I", "-S", write_attribute.__file__)


class KernelWriter:
    """The last inch before the kernel; the simulated node of the tests puts its own child here."""

    def __init__(self, child: Sequence[str] = _CHILD) -> None:
        self._command = tuple(child)
        self._children: dict[PciAddress, _Child] = {}
        self._abandoned: dict[PciAddress, _Child] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Reap the children that died meanwhile; those that are inside the kernel are left to it."""
        with self._lock:
            for child in self._abandoned.values():
                child.end()

    def write(self, address: PciAddress, path: Path, value: str, timeout_s: float = QUICK_S) -> None:
        """Write *value* to the attribute *path* for the device at *address*.

        Raises OSError with the kernel's errno, or DeviceHung when *timeout_s* is over: the child is killed, but a
        process inside the kernel dies only when the kernel lets go, so it is not waited for, and the device gets no
        further write while it lives.
        """
        self._ask(address, path, "-", value.encode(), timeout_s)

    def write_at(self, address: PciAddress, path: Path, offset: int, data: bytes, timeout_s: float = QUICK_S) -> None:
        """The same at *offset* of a binary file, configuration space that is."""
        self._ask(address, path, str(offset), data, timeout_s)

    @contextmanager
    def session(self, address: PciAddress) -> Iterator[None]:
        """Let all writes for *address* meanwhile share one child; outside of a session each has its own."""
        with self._lock:
            child = None if address in self._children else self._children.setdefault(address, _Child(self._command))
        try:
            yield
        finally:
            if child is not None:
                with self._lock:
                    self._children.pop(address, None)
                child.end()

    def _ask(self, address: PciAddress, path: Path, offset: str, data: bytes, timeout_s: float) -> None:
        self._refuse_while_hung(address)
        with self.session(address):
            child = self._children[address]
            answer = child.ask(f"{path}\t{offset}\t{data.hex()}\n".encode(), timeout_s)
            if answer is None:
                with self._lock:
                    self._abandoned[address] = self._children.pop(address)
                raise DeviceHung(
                    address,
                    f"the kernel did not finish the write to {path} within {timeout_s:g} s; it may still hold the "
                    f"device: see the kernel log and /proc/{child.pid}/stack",
                )
        if answer != "0":
            number = int(answer) if answer.isdigit() else 0
            reason = os.strerror(number) if number else "the process that writes died"
            raise OSError(number or 5, reason, str(path))

    def _refuse_while_hung(self, address: PciAddress) -> None:
        with self._lock:
            child = self._abandoned.get(address)
            if child is None:
                return
            if child.is_alive():
                raise DeviceHung(address, f"the kernel still holds an earlier write (process {child.pid})")
            del self._abandoned[address]
        child.end()


class _Child:
    """One process that writes for one device; starts at the first question."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, line: bytes, timeout_s: float) -> str | None:
        """The answer to *line*; None, and the process killed, if there is none in time. Empty if the process died."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return ""
        with suppress(BrokenPipeError):
            stdin.write(line)
        answer = _read_line(stdout, timeout_s)
        if answer is None:
            self._is_killed = True
            self._process.kill()
        return answer

    def wait(self, timeout_s: float) -> None:
        """Wait for a process that was killed and that the kernel has let go of."""
        if self._process is not None:
            self._process.wait(timeout_s)
            self._close_pipes()

    def end(self) -> None:
        """Let the process go; one that was killed inside the kernel is not waited for."""
        if self._process is None or (self._is_killed and self.is_alive()):
            return
        self._close_pipes()
        self._process.wait()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            if pipe:
                pipe.close()


def _read_line(pipe: IO[bytes], timeout_s: float) -> str | None:
    """The next line of *pipe* without its end; None if it does not come in time, empty if the pipe ends first."""
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return None
        byte = pipe.read(1)
        if not byte:
            return ""
        line += byte
    return line.decode().strip()
