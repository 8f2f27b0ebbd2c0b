"""The one door to the host's processes: who has a device open, found by device number in /proc/<pid>/fd.

The link of a descriptor leads to the open file itself, whatever mount namespace its process lives in (proc(5)), so
`st_rdev` is the proof. Names are none: any node of that number may have been opened, under any name, in any container.
Needs CAP_SYS_PTRACE to see everything.
"""

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

from nodelib import attributes
from nodelib.files import HostRoot
from nodelib.held import DeviceNumber, Holder, Holders, nvidia_number, pod_uid_of, printable_command, valid_numbers
from nodelib.pci import PciAddress, PciDevice
from nodelib.slow_reads import SlowReader

_READ_BYTES = 65536
"""More than a cgroup file or a GPU's information ever has."""
_STATX_BYTES = 256
_STATX_FIELDS = struct.Struct("=28xH98xII")
"""Mode, and major and minor of st_rdev, where `struct statx` has them (Linux, include/uapi/linux/stat.h)."""
_AT_STATX_DONT_SYNC = 0x4000
_KTHREADD = 2
"""Its pid, since it is the second thread the kernel makes (Linux, init/main.c, rest_init)."""
_VANISHED = (errno.ENOENT, errno.ESRCH)

NumberOf = Callable[[int, str], DeviceNumber | None]


def device_numbers(
    host: HostRoot, devices: Iterable[PciDevice], slow_reader: SlowReader
) -> dict[PciAddress, tuple[DeviceNumber, ...]]:
    """The character devices through which each of *devices* can be in use, as far as the kernel tells.

    Its VFIO group's and its cdev's, its DRM nodes', and for a GPU on the nvidia driver /dev/nvidiaN's. What nvidia
    shows in /proc it gathers from the GPU, so *slow_reader* reads that: a GPU that hangs costs a second, not the loop.
    """
    devices = tuple(devices)
    gpus = f"{host.root}/proc/driver/nvidia/gpus"
    paths = {d.address: f"{gpus}/{d.address}/information" for d in devices if d.driver == "nvidia"}
    answers = slow_reader.read(paths.values(), _READ_BYTES)
    numbers: dict[PciAddress, tuple[DeviceNumber, ...]] = {}
    for device in devices:
        answer = answers.get(paths.get(device.address, ""))
        nvidia = nvidia_number(answer.decode("ascii", "replace")) if isinstance(answer, bytes) else None
        others = valid_numbers(_texts(_number_paths(host, device)))
        numbers[device.address] = others if nvidia is None else (*others, nvidia)
    return numbers


def find_holders(host: HostRoot, numbers: Iterable[DeviceNumber]) -> Holders:
    """Who has any of *numbers* open: one walk through all processes, whatever is asked.

    Processes that end meanwhile are passed over; those that may not be looked into make the result incomplete.
    """
    wanted = frozenset(numbers)
    if not wanted:
        return Holders()
    proc = f"{host.root}/proc"
    try:
        names = os.listdir(proc)  # noqa: PTH208 - names alone, in the hot path
    except OSError:
        return Holders(complete=False)
    number_of = _number_reader()
    found: list[tuple[DeviceNumber, Holder]] = []
    complete = _shows_all_processes(proc)
    for pid in filter(None, map(attributes.number_or_none, names)):
        try:
            folder = os.open(f"{proc}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            complete = complete and error.errno in _VANISHED
            continue
        try:
            held, was_all = _held_in(folder, wanted, number_of)
            complete = complete and was_all
            if held and (holder := _holder(pid, folder)):
                found += ((number, holder) for number in held)
        finally:
            os.close(folder)
    return Holders(tuple(sorted(found, key=lambda pair: (pair[0], pair[1].pid))), complete)


def _held_in(folder: int, wanted: Collection[DeviceNumber], number_of: NumberOf) -> tuple[set[DeviceNumber], bool]:
    """Which of *wanted* the descriptors in *folder* are, and whether all of them could be seen."""
    held: set[DeviceNumber] = set()
    was_all = True
    try:
        names = os.listdir(folder)
    except OSError as error:
        return held, error.errno in _VANISHED
    for name in names:
        try:
            number = number_of(folder, name)
        except OSError as error:
            was_all = was_all and error.errno in _VANISHED
            continue
        if number is not None and number in wanted:
            held.add(number)
    return held, was_all


def _holder(pid: int, folder: int) -> Holder | None:
    """The process of the descriptor folder *folder*; None if it ended.

    Read through the open folder, which stays that of this process: its pid may be another's by now.
    """
    try:
        comm, cgroup = _read(folder, "../comm"), _read(folder, "../cgroup")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Holder(pid, printable_command(comm), pod_uid_of(cgroup.decode("utf-8", "replace")))


def _read(folder: int, name: str) -> bytes:
    """The file *name* as seen from *folder*; nothing where it may not be read. Raises OSError where it vanished."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            return os.read(descriptor, _READ_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _VANISHED:
            raise
        return b""


def _number_reader() -> NumberOf:
    """What gives a descriptor's device number, None for anything but a character device. It raises OSError.

    Not os.stat: for a file on NFS or FUSE that asks the server, and one that does not answer would stop the walk,
    whichever process has the file open; FUSE also refuses all but its owner. With AT_STATX_DONT_SYNC, and no field
    required, the kernel tells what it has at hand (Linux, fs/nfs/inode.c, nfs_getattr; fs/fuse/dir.c, fuse_getattr),
    and the fields of a device node always are.
    """
    statx = ctypes.CDLL(None, use_errno=True).statx  # glibc 2.28; Python has os.statx from 3.15 on
    statx.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)
    answer = ctypes.create_string_buffer(_STATX_BYTES)

    def number_of(folder: int, name: str) -> DeviceNumber | None:
        if statx(folder, os.fsencode(name), _AT_STATX_DONT_SYNC, 0, answer):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)
        mode, major, minor = _STATX_FIELDS.unpack_from(answer)
        return DeviceNumber(major, minor) if stat.S_ISCHR(mode) else None

    return number_of


def _shows_all_processes(proc: str) -> bool:
    """Whether *proc* is the host's and hides nothing from us.

    Kernel threads live in the first PID namespace only, so a container's own /proc has none; and `hidepid` (proc(5))
    hides them from whoever may not look into every process.
    """
    try:
        return attributes.read_text(f"{proc}/{_KTHREADD}/comm") == "kthreadd"
    except OSError:
        return False


def _number_paths(host: HostRoot, device: PciDevice) -> Iterable[str]:
    """The `dev` attributes of the nodes that sysfs shows for *device*."""
    sys = f"{host.root}/sys"
    folder = f"{sys}/bus/pci/devices/{device.address}"
    if device.iommu_group is not None:
        yield f"{sys}/class/vfio/{device.iommu_group}/dev"
        yield f"{sys}/class/vfio/noiommu-{device.iommu_group}/dev"
    if device.vfio_cdev:
        yield f"{folder}/vfio-dev/{device.vfio_cdev}/dev"
    with suppress(OSError):  # only a graphics driver makes this folder: nouveau, nvidia-drm
        yield from (f"{folder}/drm/{name}/dev" for name in os.listdir(f"{folder}/drm"))  # noqa: PTH208 - text paths


def _texts(paths: Iterable[str]) -> Iterable[str]:
    """The content of those of *paths* that can be read."""
    for path in paths:
        with suppress(OSError):
            yield attributes.read_text(path)
