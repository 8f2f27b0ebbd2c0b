"""What tests of kata-manager begin with: nodes whose GPUs are bound, their CDI folder, and the daemon in a thread."""

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from nodelib.daemon import RoundResult
from nodelib.node import Node
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.settings import DaemonSettings
from nodelib.wakeups import Wakeups
from tests.fakes.kernel import FakeKernel, Hardware
from tests.fakes.parts import CLASS_AUDIO, gpu, other
from tests.fakes.polling import DEADLINE_S, until
from tests.fakes.topologies import Drivers

GPU, AUDIO, OTHER_GPU = "0000:3b:00.0", "0000:3b:00.1", "0000:86:00.0"
GROUP, OTHER_GROUP = 65, 93
NO_TIMER = DaemonSettings(interval_s=600.0, listen="")
"""What happens within a test happens because of an event."""
PGPU, NVSWITCH = "nvidia.com-pgpu.yaml", "nvidia.com-nvswitch.yaml"
HEAD = "# managed by cgpu-agents: do not edit, it is rewritten\ncdiVersion: 0.5.0\n"


@dataclass(frozen=True, slots=True)
class AllBound(Drivers):
    """What a node looks like when vfio-manager is done."""

    def of(self, hardware: Hardware) -> str | None:
        if hardware.vendor == VENDOR_NVIDIA:
            return "vfio-pci"
        return Drivers.of(self, hardware)


def add_two_gpus(kernel: FakeKernel) -> None:
    """A GPU with an audio function in group 65, and another GPU in group 93, all on vfio-pci."""
    kernel.add_device(gpu(GPU, group=GROUP), driver="vfio-pci")
    kernel.add_device(other(AUDIO, VENDOR_NVIDIA, 0x22BE, CLASS_AUDIO, group=GROUP), driver="vfio-pci")
    kernel.add_device(gpu(OTHER_GPU, group=OTHER_GROUP), driver="vfio-pci")


def entry(name: str, *nodes: str) -> str:
    """One device of a spec file, as it is written."""
    paths = "".join(f"    - path: {node}\n" for node in nodes)
    return f"- name: {name}\n  containerEdits:\n    deviceNodes:\n{paths}"


TWO_GPUS = (
    f"{HEAD}kind: nvidia.com/pgpu\ndevices:\n"
    + entry("'0'", "/dev/vfio/65")
    + entry("'1'", "/dev/vfio/93")
    + entry("'65'", "/dev/vfio/65")
    + entry("'93'", "/dev/vfio/93")
    + entry(GPU, "/dev/vfio/65")
    + entry(OTHER_GPU, "/dev/vfio/93")
)
"""The whole file for the node of `add_two_gpus`."""


def folder_of(kernel: FakeKernel) -> Path:
    return kernel.host.root / "var/run/cdi"


def files(kernel: FakeKernel) -> dict[str, str]:
    """Everything in the CDI folder, hidden and temporary files too."""
    found: dict[str, str] = {}
    for path in sorted(folder_of(kernel).iterdir()):
        with contextlib.suppress(FileNotFoundError):  # a temporary file of an agent that is just writing
            found[path.name] = path.read_text()
    return found


def identity(path: Path) -> tuple[int, int]:
    """What changes when the file is replaced or written again."""
    found = path.lstat()
    return found.st_ino, found.st_mtime_ns


def put(kernel: FakeKernel, name: str, content: str) -> Path:
    """A file of somebody else in the CDI folder."""
    path = folder_of(kernel) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def foreign_spec(kind: str, devices: Mapping[str, str]) -> str:
    """Some other vendor's spec with these names and device nodes."""
    entries = [{"name": name, "containerEdits": {"deviceNodes": [{"path": node}]}} for name, node in devices.items()]
    return str(yaml.safe_dump({"cdiVersion": "0.6.0", "kind": kind, "devices": entries}))


def resolved(kernel: FakeKernel) -> dict[str, list[str]]:
    """Every qualified name in the CDI folder and its device nodes, read without the agents' code."""
    found: dict[str, list[str]] = {}
    for text in (text for name, text in files(kernel).items() if name.endswith((".json", ".yaml"))):
        document = yaml.safe_load(text)
        for device in document["devices"]:
            name = f"{document['kind']}={device['name']}"
            assert name not in found, f"{name} is defined twice"
            assert list(device["containerEdits"]) == ["deviceNodes"]
            found[name] = [node["path"] for node in device["containerEdits"]["deviceNodes"]]
    return found


def write(kernel: FakeKernel, settings: Settings | None = None) -> list[str]:
    """One run that writes the specs; the steps it took as people read them."""
    return [str(step) for step in SpecKeeper(kernel.node(), settings or Settings()).write().steps]


class RunningKeeper:
    """kata-manager's daemon with its loop, in a thread of its own."""

    def __init__(self, node: Node, settings: Settings | None = None) -> None:
        self.wakeups = Wakeups()
        self.results: list[RoundResult] = []
        self.keeper = _Watched(node, settings or Settings(), self.wakeups, self.results)
        self._thread = threading.Thread(target=self.keeper.run, args=(NO_TIMER,), name="kata-manager")

    @property
    def last(self) -> RoundResult:
        return self.results[-1] if self.results else RoundResult(ready=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wakeups.request_stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def wait_ready(self) -> None:
        until(lambda: self.last.ready)

    def wait_not_ready(self) -> None:
        until(lambda: bool(self.results) and not self.last.ready)

    def look_again(self) -> None:
        """One more round, without any change to cause it."""
        rounds = len(self.results)
        self.wakeups.wake("a test")
        until(lambda: len(self.results) > rounds)


class _Watched(SpecKeeper):
    """The real one, and what its rounds came to."""

    def __init__(self, node: Node, settings: Settings, wakeups: Wakeups, results: list[RoundResult]) -> None:
        super().__init__(node, settings, wakeups)
        self._results = results

    def round(self) -> RoundResult:
        try:
            result = super().round()
        except BaseException as error:
            self._results.append(RoundResult(ready=False, message=str(error)))
            raise
        self._results.append(result)
        return result
