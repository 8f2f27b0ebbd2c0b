"""How an administrator names devices on the command line. Pure."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from nodelib.errors import InvalidValue
from nodelib.pci import PciAddress, PciDevice, same_driver

_IDS = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})", re.IGNORECASE)
DRIVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Selector:
    """Devices by one property: a full address, a pair of PCI ids, or the name of the driver that they are on."""

    text: str
    address: PciAddress | None = None
    ids: tuple[int, int] | None = None
    driver: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """What *text* selects: `0000:3b:00.0`, `10de:2330` or `nouveau`. Raises InvalidValue for anything else."""
        if match := _IDS.fullmatch(text):
            return cls(text, ids=(int(match[1], 16), int(match[2], 16)))
        try:
            return cls(text, address=PciAddress.parse(text))
        except ValueError:
            pass  # then it can only be a driver
        if DRIVER_NAME.fullmatch(text):
            return cls(text, driver=text)
        raise InvalidValue(
            f"{text!r} selects nothing: write a full PCI address (0000:3b:00.0), PCI ids (10de:2330) or a driver's name"
        )

    def matches(self, device: PciDevice) -> bool:
        if self.address is not None:
            return device.address == self.address
        if self.ids is not None:
            return (device.vendor, device.device) == self.ids
        return self.driver is not None and same_driver(device.driver, self.driver)


def is_selected(device: PciDevice, selectors: Iterable[Selector]) -> bool:
    """Whether any of *selectors* names *device*."""
    return any(selector.matches(device) for selector in selectors)
