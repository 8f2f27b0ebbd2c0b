"""Which VFIO driver the kernel would choose for a device: the best match among its module aliases.

Format of modules.alias: depmod(8). The kernel gives VFIO drivers aliases of their own (`vfio_pci:`), so that they never
bind by themselves; a variant driver (for Grace Hopper, for example) lists the devices that it serves better.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from nodelib.pci import PciDevice

DEFAULT_DRIVER = "vfio-pci"
_PREFIX = "alias vfio_pci:"
_FIELDS = re.compile(r"v(.+?)d(.+?)sv(.+?)sd(.+?)bc(.+?)sc(.+?)i(.+)")


@dataclass(frozen=True, slots=True)
class VfioAlias:
    """One line of modules.alias that belongs to a VFIO driver."""

    fields: tuple[str, ...]
    """Vendor, device, subsystem vendor and device, class, subclass, interface; `*` matches anything."""
    module: str

    @property
    def wildcards(self) -> int:
        return self.fields.count("*")


@dataclass(frozen=True, slots=True)
class DriverChoice:
    """Which VFIO driver each device belongs to, from what was read once in a round."""

    forced: str | None
    """The driver for all devices, if the administrator named one."""
    aliases: tuple[VfioAlias, ...]
    loaded: frozenset[str]
    """The PCI drivers in /sys/bus/pci/drivers."""

    def of(self, device: PciDevice) -> str:
        """The driver that *device* belongs to, spelt as the kernel spells it."""
        if self.forced:
            return self._spelling(self.forced)
        return self._spelling(best_module(device.modalias, self.aliases) or DEFAULT_DRIVER)

    def module_of(self, device: PciDevice) -> str:
        """The kernel module that brings the driver of *device*."""
        if self.forced:
            return self.forced.replace("-", "_")
        return best_module(device.modalias, self.aliases) or DEFAULT_DRIVER.replace("-", "_")

    def is_loaded(self, driver: str) -> bool:
        return driver in self.loaded

    def _spelling(self, name: str) -> str:
        """*name*, or its form with dashes: a module has underscores where its driver may not, as only /sys shows."""
        dashed = name.replace("_", "-")
        if name in self.loaded or (dashed not in self.loaded and dashed != DEFAULT_DRIVER):
            return name
        return dashed


def parse_aliases(lines: Iterable[str]) -> tuple[VfioAlias, ...]:
    """The VFIO lines of a modules.alias; all others, and those that make no sense, are passed over."""
    found = []
    for line in lines:
        if line.startswith(_PREFIX):
            pattern, _, module = line.removeprefix(_PREFIX).strip().rpartition(" ")
            if (match := _FIELDS.fullmatch(pattern)) and module:
                found.append(VfioAlias(match.groups(), module))
    return tuple(found)


def best_module(modalias: str, aliases: Iterable[VfioAlias]) -> str | None:
    """The module whose alias matches *modalias* (`pci:v000010DEd...`) with the fewest wildcards; None without any.

    Equal matches are decided by the module's name, so that every round and every node decides alike.
    """
    match = _FIELDS.fullmatch(modalias.removeprefix("pci:"))
    if not match:
        return None
    matching = [alias for alias in aliases if _matches(match.groups(), alias.fields)]
    return min(matching, key=lambda alias: (alias.wildcards, alias.module)).module if matching else None


def _matches(device: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return all(fnmatch.fnmatchcase(value, wanted) for value, wanted in zip(device, pattern, strict=True))
