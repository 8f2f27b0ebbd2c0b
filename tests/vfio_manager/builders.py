"""What tests of vfio-manager begin with: small nodes, what the kernel shows of them, and the daemon in a thread."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodelib.daemon import RoundResult
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.settings import DaemonSettings
from nodelib.wakeups import Wakeups
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_AUDIO, gpu, other
from tests.fakes.polling import DEADLINE_S, until
from vfio_manager.reconcile import Binder
from vfio_manager.settings import READY_FILE, Settings

GPU = PciAddress.parse("0000:3b:00.0")
AUDIO = PciAddress.parse("0000:3b:00.1")
OTHER_GPU = PciAddress.parse("0000:86:00.0")
GROUP, OTHER_GROUP = 65, 93
NO_TIMER = DaemonSettings(interval_s=600.0, listen="")
"""What happens within a test happens because of an event."""


def add_card(kernel: FakeKernel, *, on: str | None = "nvidia", audio_on: str | None = "snd_hda_intel") -> None:
    """A GPU and its audio function in one group."""
    kernel.add_device(gpu(str(GPU), group=GROUP), driver=on)
    kernel.add_device(other(str(AUDIO), 0x10DE, 0x22BE, CLASS_AUDIO, group=GROUP, can_reset=False), driver=audio_on)


def add_other_gpu(kernel: FakeKernel, *, on: str | None = "nvidia") -> None:
    kernel.add_device(gpu(str(OTHER_GPU), group=OTHER_GROUP), driver=on)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the kernel shows of a function, as far as vfio-manager changes it."""

    driver: str | None
    override: str = "(null)"
    power_control: str = "on"
    d3cold_allowed: str = "1"


BOUND = Shown("vfio-pci", "vfio-pci", "on", "0")


def shown(kernel: FakeKernel, address: PciAddress) -> Shown:
    """Read without the agents' code."""
    folder = kernel.host.root / "sys/bus/pci/devices" / str(address)
    driver = folder / "driver"
    texts = ((folder / name).read_text().strip() for name in ("driver_override", "power/control", "d3cold_allowed"))
    return Shown(driver.readlink().name if driver.is_symlink() else None, *texts)


def driver_of(kernel: FakeKernel, address: PciAddress) -> str | None:
    driver = kernel.host.root / "sys/bus/pci/devices" / str(address) / "driver"
    return driver.readlink().name if driver.is_symlink() else None


def writes_for(kernel: FakeKernel, address: PciAddress) -> list[str]:
    """The writes that concern the function, in order: `bind vfio-pci`, `power/control=on`."""
    found = []
    for path, value in kernel.writes:
        parts = path.split("/")
        if value.strip() == str(address):
            found.append(" ".join(reversed(parts[3:])) or parts[-1])
        elif str(address) in parts:
            found.append(f"{'/'.join(parts[parts.index(str(address)) + 1 :])}={value.strip()}")
    return found


def planned(binder: Binder) -> list[str]:
    """The steps of the plan as people read them."""
    return [str(step) for step in binder.plan(binder.scan())[0].steps]


def bind(kernel: FakeKernel, **settings: object) -> list[str]:
    """One run of `bind`; what was not done, or nothing."""
    return list(Binder(kernel.node(), Settings(**settings)).bind().reasons)  # type: ignore[arg-type] # tests name fields


class RunningBinder:
    """vfio-manager's daemon with its loop, in a thread of its own."""

    def __init__(self, node: Node, settings: Settings | None = None, daemon: DaemonSettings = NO_TIMER) -> None:
        self.wakeups = Wakeups()
        self.ready_file: Path = node.host.resolve(READY_FILE)
        self.results: list[RoundResult] = []
        self.binder = _Watched(node, settings or Settings(), self.wakeups, self.results)
        self._thread = threading.Thread(target=self.binder.run, args=(daemon,), name="vfio-manager")

    @property
    def last(self) -> RoundResult:
        return self.results[-1] if self.results else RoundResult(ready=False)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.wakeups.request_stop()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def wait_ready(self) -> None:
        until(lambda: self.last.ready)

    def wait_not_ready(self) -> None:
        until(lambda: bool(self.results) and not self.last.ready)


class _Watched(Binder):
    """The real one, and what its rounds came to."""

    def __init__(self, node: Node, settings: Settings, wakeups: Wakeups, results: list[RoundResult]) -> None:
        super().__init__(node, settings, wakeups)
        self._results = results

    def round(self) -> RoundResult:
        self._results.append(super().round())
        return self._results[-1]


def names(reasons: Sequence[str], address: PciAddress) -> bool:
    """Whether one of *reasons* begins with the device's address."""
    return any(reason.startswith(f"{address}: ") for reason in reasons)


def spoil(path: Path, text: str) -> None:
    """Put *text* into an attribute that only root could write to."""
    path.unlink()
    path.write_text(text)
