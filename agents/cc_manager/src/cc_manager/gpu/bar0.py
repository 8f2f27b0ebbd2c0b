"""BAR0 of a device: the one door to its registers, mapped from sysfs."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from cc_manager.errors import Bar0Refused
from nodelib.errors import DeviceError, DeviceGone
from nodelib.pci import PciAddress

BAR0_SIZE = 16 << 20
"""A GPU's BAR0; a switch's is twice that, but every register used here lies below (facts, section 5)."""


class Words(Protocol):
    """A mapping seen as 32-bit words: one access here is one access on the bus."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


MapWords = Callable[[Path], AbstractContextManager[Words]]
"""Maps a BAR's file. Raises OSError where it cannot be opened, MapError where it opens but cannot be mapped."""


class MapError(OSError):
    """The file was opened and mmap failed: the errno means something else than it does from open."""


class Bar0:
    """Registers at byte offsets of a mapped BAR0."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def read32(self, offset: int) -> int:
        return self._words[_index(offset)]

    def write32(self, offset: int, value: int) -> None:
        self._words[_index(offset)] = value


def _index(offset: int) -> int:
    if offset % 4 or not 0 <= offset < BAR0_SIZE:
        raise ValueError(f"{offset:#x} is no register: offsets are multiples of 4 below {BAR0_SIZE:#x}")
    return offset // 4


@contextmanager
def map_resource(path: Path) -> Iterator[Words]:
    """The file *path* (sysfs `resource0`) mapped shared, for reading and writing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size < BAR0_SIZE:
            raise MapError(errno.ERANGE, f"it has {size} bytes, fewer than {BAR0_SIZE}", str(path))
        try:
            mapping = mmap.mmap(descriptor, BAR0_SIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise MapError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
    # Only an index into a view of words is one aligned 32-bit access: struct and slices copy bytes, and each byte read
    # from an auto-incrementing register moves it on. The views must go before the mapping can be closed.
    with mapping, memoryview(mapping) as data, data.cast("I") as words:
        yield words


@contextmanager
def open_bar0(
    address: PciAddress, path: Path, *, lockdown: str | None = None, map_words: MapWords = map_resource
) -> Iterator[Bar0]:
    """BAR0 of the device at *address*, whose file is *path*. *lockdown*: the kernel lockdown in force, None without.

    Raises DeviceGone, or Bar0Refused with what to do about it.
    """
    with ExitStack() as mapped:
        try:
            words = mapped.enter_context(map_words(path))
        except OSError as error:
            raise _refused(address, path, error, lockdown) from error
        yield Bar0(words)


def _refused(address: PciAddress, path: Path, error: OSError, lockdown: str | None) -> DeviceError:
    """What the errno of a failed open or mmap means for the person who asked (facts, section 5)."""
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO) and not path.parent.exists():
        return DeviceGone(address, "the device left the bus")
    step = "mmap" if isinstance(error, MapError) else "open"
    reason = f"BAR0 cannot be mapped: {step} of {path} failed ({error.strerror})"
    match step, error.errno:
        case "mmap", errno.EPERM:
            reason = (
                f"kernel lockdown ({lockdown or 'see /sys/kernel/security/lockdown'}) forbids mapping BAR0 from "
                f"{path} (EPERM from mmap); boot the host without lockdown, which Secure Boot switches on, or set the "
                "mode through the baseboard controller"
            )
        case "mmap", errno.EINVAL:
            reason = f"a driver owns BAR0, {path} (EINVAL from mmap); bind it first: vfio-manager bind"
        case "open", errno.EPERM:
            reason = (
                f"a sandbox or virtual machine forbids opening BAR0, {path} (EPERM from open); run on the host itself, "
                "in a privileged container"
            )
        case "open", errno.EACCES:
            reason = f"{reason}; run as root"
        case "open", errno.EROFS:
            reason = f"{reason}; /sys is mounted read-only here, mount the host's /sys writable"
        case "open", errno.ENOENT:
            reason = f"the device has no BAR0: {path} does not exist; the host's firmware gave it no address space"
    return Bar0Refused(address, reason)
