"""The doors through which an agent meets its node; tests and the demo put a simulated node behind them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodelib.files import HostRoot
from nodelib.inventory import Inventory
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

    @classmethod
    def at(cls, root: Path) -> Self:
        """The real node whose file tree is at *root*. Raises InvalidValue if that is no folder."""
        host = HostRoot(root)
        return cls(host, Sysfs(host), kernel_uevents)

    def scan(self, *, with_config: bool = False, with_locked: bool = False) -> Inventory:
        """One look at the node's NVIDIA devices: see `nodelib.scan`."""
        return scan(self.sysfs, self.host, with_config=with_config, with_locked=with_locked)
