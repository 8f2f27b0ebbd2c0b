"""Replay of a captured sysfs tree: every attribute, link and folder of its PCI functions as they were.

The format is that of tests/data/h200-vm-sysfs.json: a member per PCI address with `attrs` (mode, size, and `text`, the
bytes in `b64`, an `errno`, or neither where it is only written), `dirs`, `links` and `realpath`; `_drivers` names the
drivers that were loaded.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypedDict

from nodelib.pci import PciAddress
from tests.fakes.kernel import KNOWN_DRIVERS, Driver, FakeKernel, Hardware
from tests.fakes.kernel.tree import Entry, File, Folder, Link


class CapturedAttribute(TypedDict, total=False):
    mode: str
    size: int
    text: str
    b64: str
    errno: int


class CapturedFunction(TypedDict):
    attrs: dict[str, CapturedAttribute]
    dirs: list[str]
    links: dict[str, str]
    realpath: str


class Capture:
    """What a capture file holds."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text())
        self.drivers: tuple[str, ...] = tuple(content["_drivers"])
        self.functions: dict[PciAddress, CapturedFunction] = {
            PciAddress.parse(name): function for name, function in content.items() if not name.startswith("_")
        }

    def replay(self, kernel: FakeKernel) -> None:
        """Put the captured functions on the bus of *kernel*, which answers writes to them as to any other."""
        # A driver takes unbound devices when it is loaded; these are loaded before there are any.
        for name in self.drivers:
            kernel.load_driver(KNOWN_DRIVERS.get(name) or Driver(name, name.replace("-", "_")))
        for address, function in sorted(self.functions.items(), key=lambda item: item[1]["realpath"]):
            driver = function["links"].get("driver")
            kernel.add_device(
                hardware_of(address, function),
                entries=entries_of(function),
                driver=PurePosixPath(driver).name if driver else None,
            )


def hardware_of(address: PciAddress, function: CapturedFunction) -> Hardware:
    attributes = function["attrs"]
    group = function["links"].get("iommu_group")
    parent = PurePosixPath(function["realpath"]).parent.name
    return Hardware(
        address,
        vendor=_number(attributes, "vendor"),
        device=_number(attributes, "device"),
        pci_class=_number(attributes, "class"),
        parent=None if parent.startswith("pci") else PciAddress.parse(parent),
        iommu_group=int(PurePosixPath(group).name) if group else None,
        numa_node=_number(attributes, "numa_node") if _is_readable(attributes, "numa_node") else None,
        subsystem=(_number(attributes, "subsystem_vendor"), _number(attributes, "subsystem_device")),
        revision=_number(attributes, "revision"),
        can_reset="reset" in attributes,
        d3cold_allowed=bool(_number(attributes, "d3cold_allowed"))
        if _is_readable(attributes, "d3cold_allowed")
        else None,
    )


def entries_of(function: CapturedFunction) -> dict[str, Entry]:
    entries: dict[str, Entry] = {name: Folder() for name in function["dirs"]}
    entries |= {name: Link(target) for name, target in function["links"].items()}
    entries |= {name: _entry(attribute) for name, attribute in function["attrs"].items()}
    return entries


def _entry(attribute: CapturedAttribute) -> Entry:
    if "errno" in attribute:
        return Folder()  # reading it fails, for root too
    content = base64.b64decode(attribute["b64"]) if "b64" in attribute else attribute.get("text", "").encode()
    return File(content, int(attribute["mode"], 8))


def _is_readable(attributes: Mapping[str, CapturedAttribute], name: str) -> bool:
    return "text" in attributes.get(name, {})


def _number(attributes: Mapping[str, CapturedAttribute], name: str) -> int:
    return int(attributes[name]["text"], 0)
