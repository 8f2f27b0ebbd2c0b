"""What all parts of the simulated kernel share: its lock and waits, its functions, its attributes and uevents."""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator

from nodelib.pci import PciAddress
from tests.fakes.kernel.drivers import Driver, IdMatch
from tests.fakes.kernel.hardware import COMMAND_MEMORY, COMMAND_OFFSET, CONFIG_BYTES
from tests.fakes.kernel.held_files import HeldFiles
from tests.fakes.kernel.state import Emulated, Faults, Function, Group, Uevent
from tests.fakes.kernel.tree import Tree

_PATIENCE_S = 0.02
"""A write that takes longer than this makes its process unkillable, as a process inside the kernel is."""
_LOCKED_READS = ("driver_override", "sriov_numvfs")


class Refused(OSError):
    """What a write is answered with."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, f"{os.strerror(number)}: {reason}")


class Core:
    """Every change of state and tree happens under `changed`; what waits, waits for it."""

    def __init__(self, tree: Tree, release: tuple[int, int], *, override_reads_block: bool) -> None:
        self.tree = tree
        self.release = release
        self.changed = threading.Condition()
        self.faults = Faults()
        self.functions: dict[PciAddress, Function] = {}
        self.groups: dict[int, Group] = {}
        self.drivers: dict[str, Driver] = {}
        self.dynamic_ids: dict[str, list[IdMatch]] = {}
        self.complaints: list[str] = []
        self.caller = threading.local()
        """`caller.on_block`, in the thread that serves another process: makes that process unkillable."""
        self.files = HeldFiles(tree)
        self._locked_reads = _LOCKED_READS if override_reads_block else ()
        self._listeners: list[Callable[[Uevent], None]] = []
        self._is_stopping = False
        self._pauses_ended = 0

    def stop(self) -> None:
        """End every wait; the writes concerned fail with EIO."""
        with self.changed:
            self._is_stopping = True
            self.changed.notify_all()

    def find(self, name: str) -> Function | None:
        """The function with this name in sysfs, spelt exactly so (a newline at the end may follow)."""
        name = name.removesuffix("\n")
        return next((f for f in list(self.functions.values()) if str(f.address) == name), None)

    # --- waiting

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait for *condition*, at most *timeout_s*; under `changed`, which others may hold meanwhile."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        def is_over() -> bool:
            return self._is_stopping or condition()

        patience = _PATIENCE_S if timeout_s is None else min(_PATIENCE_S, timeout_s)
        if not self.changed.wait_for(is_over, patience):
            on_block: Callable[[], None] | None = getattr(self.caller, "on_block", None)
            if on_block:
                on_block()
            self.changed.wait_for(is_over, None if deadline is None else max(0.0, deadline - time.monotonic()))
        if self._is_stopping:
            raise Refused(errno.EIO, "the simulated kernel was shut down")

    def pause(self, duration_s: float) -> None:
        """Let a verb take its time, or until `end_pauses`."""
        if duration_s > 0:
            with self.changed:
                ended = self._pauses_ended
                self.wait_until(lambda: self._pauses_ended != ended, duration_s)

    def end_pauses(self) -> None:
        with self.changed:
            self._pauses_ended += 1
            self.changed.notify_all()

    def meet_faults(self, function: Function, verb: str) -> None:
        """Hang or fail where a test wants *verb* to, for this function."""
        key = (function.address, verb)
        if key in self.faults.hang:
            with self.changed:
                self.wait_until(lambda: key not in self.faults.hang)
        coming = self.faults.fail_next.get(key)
        number = coming.pop(0) if coming else self.faults.fail.get(key)
        if number:
            raise Refused(number, f"{verb} of {function.address} fails on command")

    @contextlib.contextmanager
    def locked(self, function: Function) -> Iterator[None]:
        """Hold the function's device_lock, waiting for it: one bind, unbind, reset or change of override at a time."""
        with self.changed:
            self.wait_until(lambda: not function.is_locked)
            self._lock(function)
        try:
            yield
        finally:
            self._unlock(function)

    @contextlib.contextmanager
    def locked_if_free(self, function: Function) -> Iterator[bool]:
        """Hold it if that needs no waiting; whether it did."""
        with self.changed:
            is_mine = not function.is_locked
            if is_mine:
                self._lock(function)
        try:
            yield is_mine
        finally:
            if is_mine:
                self._unlock(function)

    def _lock(self, function: Function) -> None:
        function.is_locked = True
        for name in self._locked_reads:
            # driver_override_show and sriov_numvfs_show take the lock too (Linux 6.12, drivers/pci/pci-sysfs.c and
            # iov.c): reading these two blocks while an unbind or a reset does.
            self.files.hold(function.folder / name)

    def _unlock(self, function: Function) -> None:
        with self.changed:
            function.is_locked = False
            for name in self._locked_reads:
                self.files.give_back(function.folder / name)
            self.changed.notify_all()

    # --- what is seen

    def set_attribute(self, function: Function, name: str, text: str) -> None:
        """Change an attribute that the function has; one that it lacks stays away."""
        path = function.folder / name
        with self.changed, contextlib.suppress(FileNotFoundError):
            mode = path.stat().st_mode & 0o777
            self.files.write(path, f"{text}\n".encode(), mode)

    def set_enable_count(self, function: Function, count: int) -> None:
        """Enabling also turns memory decoding on; disabling leaves it (drivers/pci/pci.c, do_pci_disable_device)."""
        function.enable_count = count
        self.set_attribute(function, "enable", str(count))
        if count:
            self.set_memory_decoding(function, on=True)

    def set_memory_decoding(self, function: Function, *, on: bool) -> None:
        command = function.config[COMMAND_OFFSET]
        function.config[COMMAND_OFFSET] = command | COMMAND_MEMORY if on else command & ~COMMAND_MEMORY
        self.show_config(function)

    def show_config(self, function: Function) -> None:
        """What the configuration space reads: all ones where nothing answers (PCI specification)."""
        with self.changed:
            content = b"\xff" * CONFIG_BYTES if function.is_off_bus else bytes(_with_device_words(function))
            self.files.write(function.folder / "config", content[: self.faults.config_bytes], 0o644)
            self.tell_emulated(function)

    def connect(self, function: Function, device: Emulated) -> None:
        """Put *device* behind the function: each is told of the other from now on."""

        def on_change() -> None:
            with self.changed:
                function.is_off_bus = function.is_off_bus or device.gone
                if function.is_here and not self._is_stopping:  # its tree may be gone by now
                    self.show_config(function)

        function.emulated = device
        device.on_change = on_change
        self.show_config(function)

    def tell_emulated(self, function: Function) -> None:
        """The state that the device itself notices; its power state goes by D0 and asleep only."""
        device = function.emulated
        if device is None:
            return
        decodes = bool(function.config[COMMAND_OFFSET] & COMMAND_MEMORY)
        device.memory_decoding = decodes and not function.is_resetting
        device.power_state = "D0" if function.power_state == "D0" else "D3hot"
        device.gone = device.gone or function.is_off_bus or not function.is_here

    def complain(self, what: str) -> None:
        """Something that the kernel lets happen and no right agent does."""
        self.complaints.append(what)

    # --- uevents

    def subscribe(self, listener: Callable[[Uevent], None]) -> Callable[[], None]:
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def emit(self, action: str, subsystem: str, function: Function, name: str = "") -> None:
        """Tell the listeners, never under `changed`: they may look at the tree, and call the kernel."""
        folder = function.folder / name if name else function.folder
        self._tell(Uevent(action, subsystem, f"/{folder.relative_to(self.tree.sys)}", function.address))

    def emit_group(self, action: str, node: str) -> None:
        self._tell(Uevent(action, "vfio", f"/devices/virtual/vfio/{node}"))

    def _tell(self, event: Uevent) -> None:
        for listener in tuple(self._listeners):
            listener(event)


def _with_device_words(function: Function) -> bytearray:
    """The configuration space with what the device itself puts there."""
    space = bytearray(function.config)
    if function.emulated is not None:
        for offset, word in function.emulated.config_words().items():
            space[offset : offset + 4] = word.to_bytes(4, "little")
    return space
