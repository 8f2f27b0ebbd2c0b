"""A small node of real files without a kernel behind it, and the real plugin running on it in a thread."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from device_plugin.allocate import tell_nobody
from device_plugin.reconcile import Plugin
from device_plugin.settings import KUBELET_SOCKET, CdiMode, Settings
from nodelib.daemon import RoundResult
from nodelib.event_reasons import EventReason
from nodelib.files import HostRoot
from nodelib.node import Node
from nodelib.settings import DaemonSettings
from nodelib.sysfs import Sysfs
from nodelib.wakeups import Wakeups

Tell = Callable[[EventReason, str], None]
PGPU = "nvidia.com/pgpu"
NVSWITCH = "nvidia.com/nvswitch"
QUIET = Settings(cdi=CdiMode.OFF, health_interval_s=60.0, busy_wait_s=0.1)
"""No timer comes to help within a test: what happens happens because of an event."""
ANSWERING = bytes.fromhex("de103523") + bytes(60)
GONE = b"\xff" * 64
DEADLINE_S = 10.0


class SmallNode:
    """Devices as folders of /sys; `event` is a uevent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.plugins = root / Path(KUBELET_SOCKET).parent.relative_to("/")
        self.listeners: list[Wakeups] = []
        for folder in ("bus/pci/devices", "bus/pci/drivers", "kernel/iommu_groups", "class/vfio"):
            (root / "sys" / folder).mkdir(parents=True)
        self.plugins.mkdir(parents=True)
        host = HostRoot(root)
        self.node = Node(host, Sysfs(host), self._events)

    @contextlib.contextmanager
    def _events(self, wakeups: Wakeups, subsystems: Sequence[str]) -> Iterator[bool]:
        assert "vfio" in subsystems
        self.listeners.append(wakeups)
        yield True
        self.listeners.remove(wakeups)

    def event(self) -> None:
        for wakeups in self.listeners:
            wakeups.wake("a test")

    def folder(self, address: str) -> Path:
        return self.root / "sys/bus/pci/devices" / address

    def add(
        self,
        address: str,
        group: int | None,
        *,
        device: str = "0x2335",
        pci_class: str = "0x030200",
        driver: str | None = "vfio-pci",
        numa_node: int = 0,
        cdev: str | None = None,
    ) -> None:
        """An H200, bound to vfio-pci, unless said otherwise."""
        folder = self.folder(address)
        folder.mkdir()
        texts = {"vendor": "0x10de", "device": device, "class": pci_class, "enable": "0", "numa_node": str(numa_node)}
        for name, text in texts.items():
            self.write(address, name, text)
        (folder / "config").write_bytes(ANSWERING)
        if group is not None:
            members = self.root / "sys/kernel/iommu_groups" / str(group) / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / address).symlink_to(folder)
            (folder / "iommu_group").symlink_to(members.parent)
        if driver is not None:
            self.bind(address, driver, cdev)

    def write(self, address: str, attribute: str, text: str) -> None:
        (self.folder(address) / attribute).write_text(f"{text}\n")

    def bind(self, address: str, driver: str, cdev: str | None = None) -> None:
        folder = self.folder(address)
        place = self.root / "sys/bus/pci/drivers" / driver
        place.mkdir(exist_ok=True)
        (folder / "driver").symlink_to(place)
        if driver != "vfio-pci":
            return
        if (folder / "iommu_group").exists():
            (self.root / "sys/class/vfio" / (folder / "iommu_group").readlink().name).touch()
        (folder / "vfio-dev").mkdir()
        if cdev:
            (folder / "vfio-dev" / cdev).mkdir()
            (folder / "vfio-dev" / cdev / "dev").write_text("511:0\n")

    def unbind(self, address: str) -> None:
        folder = self.folder(address)
        (folder / "driver").unlink()
        shutil.rmtree(folder / "vfio-dev", ignore_errors=True)
        (self.root / "sys/class/vfio" / (folder / "iommu_group").readlink().name).unlink(missing_ok=True)

    def unplug(self, address: str) -> None:
        group = (self.folder(address) / "iommu_group").readlink()
        (group / "devices" / address).unlink()
        if not list((group / "devices").iterdir()):
            shutil.rmtree(group)
            (self.root / "sys/class/vfio" / group.name).unlink(missing_ok=True)
        shutil.rmtree(self.folder(address))


class WatchedPlugin(Plugin):
    """The real plugin, and what its rounds came to."""

    def __init__(self, node: Node, settings: Settings, wakeups: Wakeups, tell: Tell) -> None:
        super().__init__(node, settings, wakeups, tell)
        self.results: list[RoundResult] = []

    def round(self) -> RoundResult:
        self.results.append(super().round())
        return self.results[-1]


class RunningPlugin:
    """The plugin with its loop, in a thread of its own."""

    def __init__(self, node: Node, settings: Settings = QUIET, tell: Tell = tell_nobody) -> None:
        self.wakeups = Wakeups()
        self.plugin = WatchedPlugin(node, settings, self.wakeups, tell)
        self._thread = threading.Thread(target=self.plugin.run, args=(DaemonSettings(60.0, ""),), name="plugin")

    @property
    def last(self) -> RoundResult:
        results = self.plugin.results
        return results[-1] if results else RoundResult(ready=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self.wakeups.request_stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, lambda: f"the last round said {self.last}")

    def wait_ready(self) -> None:
        self.wait_until(lambda: self.last.ready)


def wait_until(condition: Callable[[], bool], else_say: Callable[[], str] = lambda: "") -> None:
    """Wait for something that no condition variable announces."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s; {else_say()}"
        time.sleep(0.005)
