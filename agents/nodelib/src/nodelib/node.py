"""The doors through which an agent meets its node; tests and the demo put a simulated node behind them."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodelib.files import HostRoot
from nodelib.held import HeldBy
from nodelib.inventory import Inventory
from nodelib.modules import ModprobeRunner, run_modprobe
from nodelib.pci import PciAddress, PciDevice
from nodelib.scan import scan
from nodelib.sysfs import Sysfs
from nodelib.uevents import kernel_uevents
from nodelib.wakeups import Wakeups

EventSource = Callable[[Wakeups, Sequence[str]], AbstractContextManager[bool]]
"""Wakes a daemon at the events of the given subsystems while entered."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its file tree, its kernel and its kernel's events."""

    host: HostRoot
    sysfs: Sysfs
    events: EventSource
    modprobe: ModprobeRunner = run_modprobe

    @classmethod
    def at(cls, root: Path) -> Self:
        """The real node whose file tree is at *root*. Raises InvalidValue if that is no folder."""
        host = HostRoot(root)
        return cls(host, Sysfs(host), kernel_uevents)

    def scan(self, *, with_config: bool = False, with_locked: bool = False) -> Inventory:
        """One look at the node's NVIDIA devices: see `nodelib.scan`."""
        return scan(self.sysfs, self.host, with_config=with_config, with_locked=with_locked)

    def holders(self, devices: Iterable[PciDevice]) -> dict[PciAddress, HeldBy]:
        """Who has each of *devices* open, by one walk through the host's processes; for those only that are asked."""
        from nodelib.holders import device_numbers, find_holders  # not needed where nothing is to be unbound

        numbers = device_numbers(self.host, devices, self.sysfs.slow_reader)
        found = find_holders(self.host, {number for of_one in numbers.values() for number in of_one})
        return {address: HeldBy(found.of(*of_one), found.complete) for address, of_one in numbers.items()}
