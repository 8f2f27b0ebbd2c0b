"""The simulated kernel as tests, agents and the demo meet it."""

import contextlib
import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from nodelib.files import HostRoot
from nodelib.modules import Ended
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs
from nodelib.wakeups import Wakeups
from tests.fakes.kernel.access import Access, OpenBar0
from tests.fakes.kernel.binding import Binding
from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.drivers import KNOWN_DRIVERS, Driver
from tests.fakes.kernel.hardware import Hardware
from tests.fakes.kernel.hotplug import Hotplug
from tests.fakes.kernel.machines import VirtualMachine
from tests.fakes.kernel.modules import Modules
from tests.fakes.kernel.processes import Processes
from tests.fakes.kernel.resets import Resets
from tests.fakes.kernel.state import Emulated, Faults, Function, Uevent, Words
from tests.fakes.kernel.tree import Entry, Tree
from tests.fakes.kernel.vfio import Vfio
from tests.fakes.kernel.vfio_files import CdevFile, GroupFile, Uses
from tests.fakes.kernel.writer import DirectWriter, SimulatedWriter, WriteServer
from tests.fakes.kernel.writes import Writes

Address = PciAddress | str


class FakeKernel:
    """A node's /sys, /dev/vfio and /proc below *root*, and the kernel that answers what is written there.

    `faults` holds what takes long, hangs or fails; `writes` every write so far; `complaints` what the kernel let
    happen and no right agent does.

    *override_reads_block*: reading `driver_override` and `sriov_numvfs` waits for the device's lock, as on Linux 6.12
    (drivers/pci/pci-sysfs.c, driver_override_show; drivers/pci/iov.c, sriov_numvfs_show). Whoever reads them in its
    loop then stands still while an unbind or a reset does.
    """

    def __init__(
        self,
        root: Path,
        *,
        release: str = "6.12",
        vfio_groups: bool = True,
        vfio_cdevs: bool = False,
        override_reads_block: bool = True,
    ) -> None:
        self.release = release
        self._tree = Tree(root)
        self._core = Core(self._tree, _parse_release(release), override_reads_block=override_reads_block)
        self._make_folders()
        self._access = Access(self._core)
        self.processes = Processes(self._tree, release)
        self._vfio = Vfio(self._core, has_groups=vfio_groups, has_cdevs=vfio_cdevs)
        self._binding = Binding(self._core, self._vfio)
        self._resets = Resets(self._core)
        self._uses = Uses(self._core, self._resets)
        self._hotplug = Hotplug(self._core, self._binding, self._uses)
        self._modules = Modules(self._core, self._binding, release)
        self._writes = Writes(self._core, self._binding, self._resets, self._hotplug)
        self._open_at_end = contextlib.ExitStack()
        self._server: WriteServer | None = None
        self.host = HostRoot(root)
        if vfio_groups or vfio_cdevs:
            self.load_driver("vfio-pci")

    def close(self) -> None:
        """End all waits, threads and child processes. The tree stays as it is, for whoever looks at it."""
        self._core.stop()
        if self._server is not None:
            self._server.close()
        self._open_at_end.close()
        with self._core.changed:
            self._core.files.close()
        self._tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what agents are given

    def sysfs(self) -> Sysfs:
        """The real code over this kernel; it ends with the kernel."""
        sysfs = Sysfs(self.host, self.writer())
        self._open_at_end.callback(sysfs.close)
        return sysfs

    def node(self) -> Node:
        return Node(self.host, self.sysfs(), self.uevents, self.modprobe)

    def modprobe(self, arguments: Sequence[str], _timeout_s: float) -> Ended:
        """The program, as far as agents use it: the module's name last, in place of `nodelib.modules.run_modprobe`."""
        name = arguments[-1]
        try:
            self.load_module(name)
        except FileNotFoundError:
            return Ended(1, f"modprobe: FATAL: Module {name} not found in directory /lib/modules/{self.release}\n")
        return Ended(0)

    def writer(self) -> SimulatedWriter:
        writer = SimulatedWriter(self.write_socket)
        self._open_at_end.callback(writer.close)
        return writer

    def direct_writer(self) -> DirectWriter:
        """The same without child processes, for tests in which no write hangs."""
        return DirectWriter(self.write, self.write_config)

    @property
    def write_socket(self) -> str:
        """Where `write_child` reaches this kernel, from any process."""
        if self._server is None:
            self._server = WriteServer(self._core, self.write, self.write_config)
        return self._server.name

    @contextlib.contextmanager
    def uevents(self, wakeups: Wakeups, subsystems: Sequence[str]) -> Iterator[bool]:
        """Wakes a daemon at this kernel's events, in place of `nodelib.uevents.kernel_uevents`."""

        def wake(event: Uevent) -> None:
            if event.subsystem in subsystems:
                wakeups.wake(f"{event.subsystem} {event.action} {event.sys_name}")

        unsubscribe = self.subscribe(wake)
        try:
            yield True
        finally:
            unsubscribe()

    def subscribe(self, listener: Callable[[Uevent], None]) -> Callable[[], None]:
        """Call *listener* at each event, in the thread that caused it, when the tree shows it; gives the way out."""
        return self._core.subscribe(listener)

    def write(self, path: Path, value: str) -> int:
        """One write to an attribute: 0, or the errno."""
        return self._writes.write(path, value)

    def write_config(self, path: Path, offset: int, data: bytes) -> None:
        """A write to a `config` file: EPERM under lockdown."""
        self._access.write_config(path, offset, data)

    def open_bar0(self, path: Path) -> OpenBar0:
        """An open `resource0`. Raises what open(2) does."""
        return self._access.open_bar0(path)

    def map_bar0(self, path: Path) -> Words:
        """What opening and mapping `resource0` gives. Raises what either does."""
        return self.open_bar0(path).map()

    # --- what tests look at

    @property
    def faults(self) -> Faults:
        return self._core.faults

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Path below /sys and value of every write so far."""
        return self._writes.log

    @property
    def complaints(self) -> list[str]:
        return self._core.complaints

    @property
    def addresses(self) -> tuple[PciAddress, ...]:
        """The functions that are there, in the order of the bus."""
        return tuple(sorted(self._core.functions))

    # --- hardware

    def add_device(
        self, hardware: Hardware, *, driver: str | None = None, entries: Mapping[str, Entry] | None = None
    ) -> PciAddress:
        """Something that was there, and bound to *driver*, before anybody looked.

        *entries* are its folder's content in place of the usual one.
        """
        known = None if driver is None else self._core.drivers.get(driver) or KNOWN_DRIVERS[driver]
        if known is not None:
            self._modules.show_driver(known)
        return self._hotplug.add(hardware, known, entries).address

    def attach(self, address: Address, emulated: Emulated) -> None:
        """Put an emulated device behind the function: it is told of resets, power and memory decoding."""
        self._core.connect(self._function(address), emulated)

    def unplug(self, address: Address, *, whole_slot: bool = False) -> None:
        """Pull it out, with all behind it or, on request, with all functions of its slot."""
        function = self._function(address)
        slot = function.address.slot
        others = [f for f in list(self._core.functions.values()) if whole_slot and f.address.slot == slot]
        for one in (others or [function])[::-1]:
            self._hotplug.unplug(one)

    def plug_back(self, address: Address) -> None:
        self._hotplug.plug_back(_parse(address))

    def fall_off_bus(self, address: Address) -> None:
        """It stays in sysfs but does not answer any more; no event is sent."""
        self._hotplug.fall_off(self._function(address))

    # --- drivers, modules and settings of the kernel

    def load_driver(self, driver: str | Driver) -> None:
        """Load it; it takes every device that it matches and nobody has."""
        self._modules.register_driver(KNOWN_DRIVERS[driver] if isinstance(driver, str) else driver)

    def load_module(self, name: str) -> None:
        """What `modprobe` does. Raises ENOENT for a module that the kernel does not have."""
        self._modules.load(name)

    def set_module_parameter(self, module: str, name: str, value: str) -> None:
        self._modules.set_parameter(module, name, value)
        if (module, name) == ("vfio", "enable_unsafe_noiommu_mode"):
            self._vfio.allows_noiommu = value == "Y"

    def set_lockdown(self, mode: str) -> None:
        """`none`, `integrity` or `confidentiality` (kernel_lockdown(7))."""
        self._access.lock_down(mode)

    def release_hangs(self) -> None:
        """Let every write that hangs go on."""
        with self._core.changed:
            self.faults.hang.clear()
            self._core.changed.notify_all()

    def end_pauses(self) -> None:
        """Let every verb that takes its time (`faults.reset_s` and the like) be over now."""
        self._core.end_pauses()

    def wait_until_idle(self, timeout_s: float = 10.0) -> None:
        """Until the kernel is through with all that child processes wrote, and has let go of those that were killed."""
        if self._server is not None:
            self._server.wait_until_idle(timeout_s)

    # --- users

    def vfio_open_group(self, number: int) -> GroupFile:
        group = self._core.groups.get(number)
        if group is None or not self._vfio.has_groups or not group.registered:
            raise FileNotFoundError(errno.ENOENT, f"there is no /dev/vfio/{number}")
        return GroupFile(self._core, self._uses, group)

    def vfio_open_cdev(self, node: str) -> CdevFile:
        """Open /dev/vfio/devices/<node>."""
        if not self._vfio.has_cdevs:
            raise FileNotFoundError(errno.ENOENT, "this kernel has no VFIO cdevs")
        return CdevFile(self._core, self._uses, self._vfio.device_at(node))

    def start_vm(
        self, *addresses: Address, pid: int = 4711, command: str = "qemu-system-x86_64", by_cdev: bool = False
    ) -> VirtualMachine:
        """A virtual machine with these devices plugged in; `close` ends it."""
        machine = VirtualMachine(self.vfio_open_group, self.vfio_open_cdev, lambda: self.processes.end(pid))
        try:
            for address in addresses:
                machine.plug(self._function(address), by_cdev=by_cdev)
        except BaseException:
            machine.close()
            raise
        self.processes.start(pid, command, machine.nodes)
        return machine

    @contextlib.contextmanager
    def in_use(self, address: Address, *, pid: int = 815, command: str = "nvidia-persistenced") -> Iterator[None]:
        """A process has the device open through its driver, and `nvidia` waits for it at an unbind."""
        function = self._function(address)
        with self._core.changed:
            function.users += 1
        self.processes.start(pid, command, ("/dev/nvidia0",))
        try:
            yield
        finally:
            self.processes.end(pid)
            with self._core.changed:
                function.users -= 1
                self._core.changed.notify_all()

    # --- how

    def _function(self, address: Address) -> Function:
        function = self._core.functions.get(_parse(address))
        if function is None:
            raise Refused(errno.ENODEV, f"there is no device {address}")
        return function

    def _make_folders(self) -> None:
        sys = self._tree.sys
        for folder in ("bus/pci/devices", "class/iommu", "devices/virtual", "kernel/iommu_groups"):
            (sys / folder).mkdir(parents=True)
        for name in ("drivers_probe", "rescan"):
            self._tree.write(sys / "bus/pci" / name, b"", 0o200)


def _parse(address: Address) -> PciAddress:
    return PciAddress.parse(address) if isinstance(address, str) else address


def _parse_release(release: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    assert found, f"{release!r} is no kernel release"
    return int(found[1]), int(found[2])
