"""Between nodelib's KernelWriter and the simulated kernel: its children ask that one instead of the real one."""

import contextlib
import errno
import os
import secrets
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from nodelib.kernel_writes import KernelWriter
from nodelib.pci import PciAddress
from tests.fakes.kernel import hold_child, write_child
from tests.fakes.kernel.core import Core

_WAIT_S = 10


class SimulatedWriter(KernelWriter):
    """KernelWriter with its own deadlines, kills and refusals of second writes; only the kernel behind it is ours."""

    def __init__(self, socket_name: str) -> None:
        super().__init__(child=(sys.executable, "-I", "-S", write_child.__file__, socket_name))

    def close(self) -> None:
        """Reap the children that were abandoned; the kernel has let go of them by now."""
        for child in self._abandoned.values():
            child.wait(_WAIT_S)
        super().close()


class DirectWriter(KernelWriter):
    """Without child processes, which are most of a test's time: for tests in which no write hangs."""

    def __init__(self, write: Callable[[Path, str], int], write_config: Callable[[Path, int, bytes], None]) -> None:
        super().__init__(child=())
        self._write = write
        self._write_config = write_config

    def _ask(self, address: PciAddress, path: Path, offset: str, data: bytes, timeout_s: float) -> None:
        number = 0
        if offset == "-":
            number = self._write(path, data.decode())
        else:
            try:
                self._write_config(path, int(offset), data)
            except OSError as error:
                number = error.errno or errno.EIO
        if number:
            raise OSError(number, os.strerror(number), str(path))


class WriteServer:
    """Answers the children, each in a thread of its own; its socket's name needs no file, so no path is too long."""

    def __init__(
        self, core: Core, write: Callable[[Path, str], int], write_config: Callable[[Path, int, bytes], None]
    ) -> None:
        self.name = f"simulated-kernel-{secrets.token_hex(8)}"
        self._core = core
        self._write = write
        self._write_config = write_config
        self._threads: list[threading.Thread] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(f"\0{self.name}")
        self._socket.listen(64)
        self._acceptor = threading.Thread(target=self._accept, name="simulated-kernel", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """To be called when the kernel has been stopped, so that no write waits any more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        for thread in self._threads:
            thread.join()

    def wait_until_idle(self, timeout_s: float) -> None:
        """Until the kernel is through with all that children have asked, abandoned ones too."""
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), "the kernel still carries out a write"

    def _accept(self) -> None:
        while True:
            try:
                child, _ = self._socket.accept()
            except OSError:
                return  # shut down
            thread = threading.Thread(target=self._serve, args=(child,), name="simulated-write", daemon=True)
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]
            thread.start()

    def _serve(self, child: socket.socket) -> None:
        with child, contextlib.ExitStack() as holding:
            (pid,) = struct.unpack("i4x4x", child.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            self._core.caller.on_block = lambda: self._hold(pid, holding)
            try:
                text = b"".join(iter(lambda: child.recv(65536), b"")).decode()
                answer = self._carry_out(*text.rstrip("\n").split("\t"))
                # The kernel has finished whether or not somebody still wants to know.
                child.sendall(str(answer).encode())
            except OSError:
                return
            finally:
                self._core.caller.on_block = None

    def _carry_out(self, path: str, offset: str, data: str) -> int:
        """The errno of one write, or 0: to an attribute (no offset) or to configuration space."""
        if offset == "-":
            return self._write(Path(path), bytes.fromhex(data).decode())
        try:
            self._write_config(Path(path), int(offset), bytes.fromhex(data))
        except OSError as error:
            return error.errno or -1
        return 0

    def _hold(self, pid: int, holding: contextlib.ExitStack) -> None:
        self._core.caller.on_block = None  # once is enough
        holding.callback(Hold(pid).close)


class Hold:
    """A process that outlives being killed, until `close`."""

    def __init__(self, pid: int) -> None:
        self._holder = subprocess.Popen(
            [sys.executable, "-I", "-S", hold_child.__file__, str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def succeeds(self) -> bool:
        assert self._holder.stdout is not None
        return self._holder.stdout.read(1) == b"0"

    def close(self) -> None:
        self._holder.communicate()


def can_hold_children() -> bool:
    """Whether this machine permits ptrace; without it a killed write dies at once, whatever the kernel still does."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        hold = Hold(process.pid)
        try:
            return hold.succeeds()
        finally:
            hold.close()
            process.kill()
