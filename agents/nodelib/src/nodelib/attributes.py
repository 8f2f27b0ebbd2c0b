"""How the text, links and folders of sysfs become values: each parser raises ValueError for what makes no sense."""

import errno
import os
import re
from dataclasses import replace
from pathlib import Path

from nodelib.pci import PciAddress, PciDevice

PAGE_BYTES = 4096
"""sysfs gives an attribute in one read of at most one page (Linux, Documentation/filesystems/sysfs.rst)."""
_DIGITS = 20
"""As many as the largest number of the kernel has."""
_SHOWN = 40
"""How much of a page of garbage a message shows."""
_HEX = re.compile(r"(0x)?[0-9a-f]{1,6}")
_ROOT_BUS = re.compile(r"/devices(?:/[^/]+)*?/(pci[0-9a-f]{4,8}:[0-9a-f]{2})/")


def read_text(path: str) -> str:
    """The attribute at *path* without the white space around it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, PAGE_BYTES).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def names_in(folder: Path) -> list[str]:
    """What is in *folder*; nothing where the kernel has no such folder."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - names alone, in the hot path
    except (FileNotFoundError, NotADirectoryError):
        return []


def numbers_in(folder: Path) -> frozenset[int]:
    """The names in *folder* that are group numbers."""
    return frozenset(number for name in names_in(folder) if (number := number_or_none(name)) is not None)


def link_name(path: str) -> str | None:
    """The last part of what the link at *path* points to; None without a link, sysfs's way to say "none"."""
    try:
        return os.readlink(path).rpartition("/")[2]  # noqa: PTH115 - text, in the hot path
    except OSError:
        return None


def vfio_cdev(folder: str) -> tuple[str | None, bool]:
    """The device's cdev, and whether any VFIO driver holds it: since Linux 6.1 the folder alone is no cdev."""
    try:
        names = os.listdir(f"{folder}/vfio-dev")  # noqa: PTH208 - names alone, in the hot path
    except OSError:
        return None, False
    cdev = next((name for name in names if Path(folder, "vfio-dev", name, "dev").exists()), None)
    return cdev, True


def has_vfio_dev(folder: str) -> bool:
    """The second half of `vfio_cdev` alone."""
    return os.path.isdir(f"{folder}/vfio-dev")  # noqa: PTH112 - text, in the hot path


def group_number(path: str, faults: list[str]) -> int | None:
    name = link_name(path)
    if name is None:
        return None
    if (number := number_or_none(name)) is not None:
        return number
    faults.append(f"iommu_group links to {name!r}, which is no group number")
    return None


def linked_address(path: str, faults: list[str]) -> PciAddress | None:
    name = link_name(path)
    if name is None:
        return None
    address = address_or_none(name)
    if address is None:
        faults.append(f"physfn links to {name!r}, which is no PCI address")
    return address


def pcie_root(folder: str) -> str | None:
    """The root bus (`pci0000:15`) in the place that the device folder links to; None where it is no such link.

    Named by Linux, drivers/pci/probe.c, pci_register_host_bridge.
    """
    try:
        place = os.readlink(folder)  # noqa: PTH115 - text, in the hot path
    except OSError:
        return None
    return found[1] if (found := _ROOT_BUS.search(place)) else None


def address_or_none(text: str) -> PciAddress | None:
    try:
        return PciAddress.parse(text)
    except ValueError:
        return None


def number_or_none(text: str) -> int | None:
    """*text* as a number as the kernel writes it: ASCII digits, nothing else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else None


def parse_hex(text: str) -> int:
    """An id as sysfs writes it: `0x10de`, at most 24 bits (a class)."""
    if not _HEX.fullmatch(text):  # int() alone would also take signs and underscores
        raise ValueError(f"{text[:_SHOWN]!r} is no hexadecimal id")
    return int(text, 16)


def parse_override(text: str) -> str | None:
    return None if text in ("", "(null)") else text


def parse_numa_node(text: str) -> int | None:
    node = parse_count(text.removeprefix("-"))
    return None if text.startswith("-") else node  # -1: the kernel knows none, which is no hint for node 0


def parse_count(text: str) -> int:
    count = number_or_none(text)
    if count is None:
        raise ValueError(f"{text[:_SHOWN]!r} is no number")
    return count


def parse_flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{text[:_SHOWN]!r} is neither 0 nor 1")
    return text == "1"


def with_locked(device: PciDevice, override: bytes | OSError | None, numvfs: bytes | OSError | None) -> PciDevice:
    """*device* with the answers of the two attributes that are read under its lock; None: there was no answer."""
    if override is None or numvfs is None:
        return replace(device, is_locked=True)
    faults = [
        f"{name} cannot be read ({os.strerror(answer.errno or 0)})"
        for name, answer in (("driver_override", override), ("sriov_numvfs", numvfs))
        if isinstance(answer, OSError) and answer.errno != errno.ENOENT  # a kernel may lack it
    ]
    text = override.decode("ascii", "replace").strip() if isinstance(override, bytes) else ""
    count = 0
    try:
        count = parse_count(numvfs.decode("ascii", "replace").strip()) if isinstance(numvfs, bytes) else 0
    except ValueError as error:
        faults.append(f"sriov_numvfs makes no sense ({error})")
    return replace(device, driver_override=parse_override(text), vf_count=count, faults=(*device.faults, *faults))
