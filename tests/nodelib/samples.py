"""Small inventories and small trees of real files for the tests of nodelib; no kernel stands behind either."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hypothesis import settings

from nodelib.files import HostRoot
from nodelib.inventory import Inventory
from nodelib.iommu import IommuGroup
from nodelib.pci import PciAddress, PciDevice
from nodelib.sysfs import Sysfs

PROPERTY = settings(max_examples=80, deadline=None, database=None, derandomize=True)
"""For property tests: the same examples in every run, and no file left behind."""

DEADLINE_S = 10.0
"""The patience of a test that waits for something; reached only where it fails."""


def wait_until(condition: Callable[[], object]) -> None:
    """Returns once *condition* holds; fails the test if it does not by the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def at(text: str) -> PciAddress:
    """`3b` stands for 0000:3b:00.0, `3b.1` for its function 1; anything longer is a full address."""
    if ":" in text:
        return PciAddress.parse(text)
    bus, _, function = text.partition(".")
    return PciAddress(0, int(bus, 16), 0, int(function or "0"))


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


# --- values


def gpu(where: str, group: int | None, **fields: object) -> PciDevice:
    """An H200, on vfio-pci and idle unless *fields* say otherwise."""
    return _device(where, group, 0x10DE, 0x2335, 0x030200, {"name": "GH100 [H200 SXM 141GB]"} | fields)


def nvswitch(where: str, group: int | None, **fields: object) -> PciDevice:
    return _device(where, group, 0x10DE, 0x22A3, 0x068000, {"name": "GH100 [H100 NVSwitch]"} | fields)


def audio(where: str, group: int | None, **fields: object) -> PciDevice:
    """The audio function of a GPU."""
    return _device(where, group, 0x10DE, 0x22BE, 0x040300, fields)


def nic(where: str, group: int | None, **fields: object) -> PciDevice:
    """Another vendor's network card, on its own driver."""
    return _device(where, group, 0x15B3, 0x1021, 0x020000, {"driver": "mlx5_core"} | fields)


def bridge(where: str, group: int | None, **fields: object) -> PciDevice:
    """A PCIe port."""
    return _device(where, group, 0x8086, 0x352A, 0x060400, {"driver": "pcieport"} | fields)


def _device(
    where: str, group: int | None, vendor: int, device: int, pci_class: int, fields: Mapping[str, object]
) -> PciDevice:
    driver = fields.get("driver", "vfio-pci")
    values: dict[str, object] = {
        "vendor": vendor,
        "device": device,
        "pci_class": pci_class,
        "driver": driver,
        "has_vfio_dev": driver == "vfio-pci",
    } | dict(fields)
    # A misspelt or mistyped field fails at once in the test that gives it.
    return PciDevice(address=at(where), iommu_group=group, **values)  # type: ignore[arg-type]


def look(
    *devices: PciDevice,
    extra_groups: Iterable[int] = (),
    vfio_groups: Iterable[int] | None = None,
    dev_vfio: Iterable[str] | None = None,
    noiommu: Iterable[int] = (),
    **fields: object,
) -> Inventory:
    """The inventory of a node with these functions, every group with its legacy node unless said otherwise."""
    ordered = tuple(sorted(devices, key=lambda device: device.address))
    members: dict[int, list[PciAddress]] = {}
    for device in ordered:
        if device.iommu_group is not None:
            members.setdefault(device.iommu_group, []).append(device.address)
    return Inventory(
        devices=ordered,
        groups=tuple(
            IommuGroup(number, tuple(members[number]), "vfio-noiommu" if number in set(noiommu) else None)
            for number in sorted(members)
        ),
        group_numbers=frozenset(members) | frozenset(extra_groups),
        vfio_groups=frozenset(members) if vfio_groups is None else frozenset(vfio_groups),
        dev_vfio=None if dev_vfio is None else frozenset(dev_vfio),
        **fields,  # type: ignore[arg-type] # as above
    )


# --- trees


class Tree:
    """A host root below *root* whose /sys holds what the test puts there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sys = root / "sys"
        self.pci = self.sys / "bus/pci"
        for folder in ("bus/pci/devices", "bus/pci/drivers", "kernel/iommu_groups", "class/vfio"):
            (self.sys / folder).mkdir(parents=True)
        (self.pci / "drivers_probe").touch()
        self.host = HostRoot(root)

    def sysfs(self) -> Sysfs:
        return Sysfs(self.host)

    def folder(self, where: str) -> Path:
        return self.pci / "devices" / str(at(where))

    def add(
        self,
        where: str,
        vendor: str = "0x10de",
        device: str = "0x2335",
        pci_class: str = "0x030200",
        *,
        group: int | None = None,
        driver: str | None = None,
        **attributes: str,
    ) -> Path:
        """A device folder with the given attributes (`power_control=` is `power/control`)."""
        folder = self.folder(where)
        (folder / "power").mkdir(parents=True)
        texts = {"vendor": vendor, "device": device, "class": pci_class, "enable": "0", "numa_node": "-1"} | attributes
        for name, text in texts.items():
            (folder / name.replace("power_control", "power/control")).write_text(f"{text}\n")
        if group is not None:
            members = self.sys / "kernel/iommu_groups" / str(group) / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / folder.name).symlink_to(folder)
            (folder / "iommu_group").symlink_to(members.parent)
        if driver is not None:
            place = self.add_driver(driver)
            (folder / "driver").symlink_to(place)
        return folder

    def add_driver(self, name: str) -> Path:
        place = self.pci / "drivers" / name
        place.mkdir(exist_ok=True)
        for attribute in ("bind", "unbind"):
            (place / attribute).touch()
        return place
