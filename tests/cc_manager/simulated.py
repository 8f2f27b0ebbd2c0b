"""A small node for cc-manager: GPUs and switches with firmware, the kernel that holds them, and the API server."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cc_manager.assemble import Cluster, assemble, tell_nobody
from cc_manager.clock import Clock
from cc_manager.cluster.eviction import Tell
from cc_manager.cluster.labels import MODE, READY, STATE
from cc_manager.gpu.access import Access
from cc_manager.gpu.bar0 import MapError, Words
from cc_manager.reconcile import Reconciler
from cc_manager.setter import ModeSetter
from cc_manager.settings import ClusterSettings, Settings
from nodelib.kube import ApiAccess, Kube
from nodelib.node import Node
from nodelib.nvidia import is_assignable_kind
from nodelib.pci import PciAddress
from nodelib.slow_reads import SlowReader
from nodelib.sysfs import Sysfs
from nodelib.wakeups import Wakeups
from tests.cc_manager.invariant import READY_OF, checked_at_each_write, shown, staged
from tests.cc_manager.workloads import PodsWithDevices
from tests.fakes.gpu import Chip, EmulatedDevice, chip_behind
from tests.fakes.kernel import FakeKernel, Hardware
from tests.fakes.kube.api import KubeApi
from tests.fakes.parts import gpu, nvswitch
from tests.fakes.topologies import Drivers, build

NODE_NAME = "node-1"
MODE_REGISTERS = {Chip.GH100: 0x1182CC, Chip.NVSWITCH_GEN3: 0x28C50}
COMMAND_HEAD, EMEM_CONTROL, EMEM_DATA = 0x8F2C10, 0x8F2AD0, 0x8F2AD4
QUICK = Settings(reset_timeout_s=20.0)
"""Long enough for a loaded machine; whoever tests a reset that hangs takes less."""

OnAccess = Callable[[PciAddress, int, int | None], None]
"""Told of each register access before it is made: the device, the offset, the value (None: a read)."""


class SharedTime:
    """Time that moves only when somebody sleeps; firmware and agent live in the same one."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._lock = threading.RLock()

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds
            due = [do for when, do in self._due if when <= self._now]
            self._due = [(when, do) for when, do in self._due if when > self._now]
            for do in due:
                do()  # under the lock: until it is done no other thread's time goes on

    def call_at(self, when: float, do: Callable[[], None]) -> None:
        with self._lock:
            self._due.append((when, do))

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=self.now, sleep=self.sleep)


class CcNode:
    """The node. `close` (or leaving it) fails the test if the kernel or a device has a complaint.

    *topology* (a name) or *hardware* replaces the default, which is *gpus* and *switches* with an IOMMU group each;
    all are on *driver*. Without
    *awake* the devices sleep, as vfio-pci leaves idle ones. Whoever
    tests a device that hangs takes less than the time within which others answer on a loaded machine. *real_time*: for
    the command line, which brings its own clock. Without *writes_hang* no write to /sys may, and all is quicker.
    """

    def __init__(
        self,
        root: Path,
        *,
        gpus: int = 2,
        switches: int = 0,
        topology: str = "",
        hardware: tuple[Hardware, ...] | None = None,
        driver: str | None = "vfio-pci",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        has_tee: bool = True,
        awake: bool = True,
        answer_within_s: float = 10.0,
        real_time: bool = False,
        writes_hang: bool = True,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self.time = SharedTime()
        if topology:
            self.kernel = self._stack.enter_context(build(topology, root / "host", drivers=Drivers(driver, driver)))
        else:
            self.kernel = self._stack.enter_context(FakeKernel(root / "host"))
            for function in hardware or _functions(gpus, switches):
                self.kernel.add_device(function, driver=driver)
        if has_tee:
            self.kernel.set_module_parameter("kvm_amd", "sev_snp", "Y")
        writer = self.kernel.writer() if writes_hang else self.kernel.direct_writer()
        sysfs = Sysfs(self.kernel.host, writer, SlowReader(answer_within_s))
        self._stack.callback(sysfs.close)
        self.node = Node(self.kernel.host, sysfs, self.kernel.uevents)
        self.on_access: list[OnAccess] = []
        self.devices: dict[PciAddress, EmulatedDevice] = {}
        for device in self.node.scan().devices:
            chip = chip_behind(device.device, device.pci_class)
            if is_assignable_kind(device) and chip is not None:
                self._attach(device.address, chip, real_time=real_time)
        if awake and driver == "vfio-pci":
            for address in self.devices:
                self.kernel.write(self.host_folder(address) / "power/control", "on")
            self.kernel.writes.clear()
        self.api = self._stack.enter_context(KubeApi(NODE_NAME, labels or {}, annotations=annotations))
        self.pods = PodsWithDevices(self)
        self.refuse_untrue_labels = checked_at_each_write(lambda: self.on_the_bus)
        self.api.on_write.append(self.refuse_untrue_labels)

    def close(self) -> None:
        self._stack.close()
        self.assert_no_complaints()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        if error is None:
            self.assert_no_complaints()

    def _attach(self, address: PciAddress, chip: Chip, *, real_time: bool) -> None:
        device = EmulatedDevice(chip, clock=self.time.now, call_at=self.time.call_at)
        if real_time:
            device = EmulatedDevice(chip, boot_time_s=0.02, take_time_s=0.0, answer_time_s=0.0)
        self.devices[address] = device
        self.kernel.attach(address, device)

    # --- what agents are given

    @contextlib.contextmanager
    def map_words(self, path: Path) -> Iterator[Words]:
        """What mapping `resource0` gives here."""
        opened = self.kernel.open_bar0(path)
        try:
            words = opened.map()
        except OSError as error:
            raise MapError(error.errno, error.strerror, str(path)) from error
        yield _WatchedWords(PciAddress.parse(path.parent.name), words, self.on_access)

    def access(self) -> Access:
        return Access(self.node, self.map_words, self.time.clock)

    def setter(self, settings: Settings = QUICK, wakeups: Wakeups | None = None) -> ModeSetter:
        return ModeSetter(self.node, self.access(), settings, wakeups)

    def kube(self) -> Kube:
        kube = Kube(ApiAccess(self.api.url, token=self.api.token))
        self._stack.callback(kube.close)
        return kube

    def manager(
        self,
        settings: Settings = QUICK,
        wakeups: Wakeups | None = None,
        cluster: ClusterSettings | None = None,
        tell: Tell = tell_nobody,
        clock: Clock | None = None,
    ) -> Reconciler:
        """The daemon's rounds, as a fresh start of the process has them; whoever waits for a watch brings a *clock*."""
        outside = Cluster(self.kube(), NODE_NAME, self.pods, tell)
        return assemble(self.setter(settings, wakeups), outside, cluster, clock or self.time.clock)

    def kubeconfig(self, folder: Path) -> Path:
        """A kubeconfig file for the API server; JSON is YAML."""
        path = folder / "kubeconfig"
        content = {
            "current-context": "simulated",
            "contexts": [{"name": "simulated", "context": {"cluster": "simulated", "user": "agent"}}],
            "clusters": [{"name": "simulated", "cluster": {"server": self.api.url}}],
            "users": [{"name": "agent", "user": {"token": self.api.token}}],
        }
        path.write_text(json.dumps(content))
        return path

    # --- what a test looks at

    @property
    def addresses(self) -> tuple[PciAddress, ...]:
        return tuple(sorted(self.devices))

    @property
    def accesses(self) -> list[int]:
        """Register accesses so far, device by device."""
        return [self.devices[address].accesses for address in self.addresses]

    def host_folder(self, address: PciAddress) -> Path:
        """The device's folder in sysfs."""
        return self.node.host.root / "sys/bus/pci/devices" / str(address)

    def resets(self) -> list[str]:
        """The devices whose reset was asked for, in order; what VFIO resets by itself is not among them."""
        return [path.split("/")[-2] for path, _ in self.kernel.writes if path.endswith("/reset")]

    @property
    def on_the_bus(self) -> list[tuple[PciAddress, EmulatedDevice]]:
        """Every device that is plugged in."""
        return [(address, self.devices[address]) for address in set(self.devices).intersection(self.kernel.addresses)]

    def assert_all_in(self, mode: str) -> None:
        """Every device that is plugged in is in *mode*, now and after its next reset, seen from the hardware's side."""
        for address, device in self.on_the_bus:
            assert device.active == shown(device, mode), f"{address} is {device.active}, not {mode}"
            assert staged(device) == shown(device, mode), f"{address} has {staged(device)} staged, not {mode}"

    def assert_none_in_waiting(self) -> None:
        """No device that answers would change its mode at its next reset."""
        for address, device in self.devices.items():
            assert device.gone or staged(device) == device.active, f"{address}: {device.active} and {staged(device)}"

    def assert_says(self, mode: str) -> None:
        """The node's labels tell that it is verified in *mode*."""
        assert self.api.labels.get(STATE) == mode
        assert self.api.labels.get(READY) == READY_OF.get(mode, "")

    def assert_no_complaints(self) -> None:
        assert self.kernel.complaints == []
        assert {str(a): d.complaints for a, d in self.devices.items() if d.complaints} == {}

    # --- what others do

    def want(self, mode: str | None) -> None:
        """The administrator sets the label."""
        self.api.set_label(MODE, mode)

    def put_into(self, mode: str) -> None:
        """The baseboard controller puts every device into *mode*; the node says nothing of it."""
        for device in self.devices.values():
            wanted = shown(device, mode)
            device.knobs.update({2: 0, 4: 0, 34: 0, 6: wanted.cc_bits >> 1, 8: wanted.cc_bits & 1})
            if 45 in device.knobs:
                device.knobs[45] = int(wanted.is_ppcie)
            device.knobs.update({10: 2 if mode in ("on", "ppcie") and device.chip is Chip.GH100 else 0})
            device.reset()
        self.time.sleep(1.0)


class Crash(BaseException):
    """The process ends here; nothing of ours catches it."""


class _WatchedWords:
    def __init__(self, address: PciAddress, words: Words, listeners: list[OnAccess]) -> None:
        self._address = address
        self._words = words
        self._listeners = listeners

    def __getitem__(self, index: int) -> int:
        for listener in self._listeners:
            listener(self._address, index * 4, None)
        return self._words[index]

    def __setitem__(self, index: int, value: int) -> None:
        for listener in self._listeners:
            listener(self._address, index * 4, value)
        self._words[index] = value


def _functions(gpus: int, switches: int) -> list[Hardware]:
    placed = [gpu(f"0000:{0x1B + number:02x}:00.0", group=10 + number) for number in range(gpus)]
    return placed + [nvswitch(f"0000:{0x07 + number:02x}:00.0", group=60 + number) for number in range(switches)]
