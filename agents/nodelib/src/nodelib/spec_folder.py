"""CDI folders on the node: reading what is in them, and carrying out a plan of `spec_plan`."""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import assert_never

from nodelib.errors import InvalidValue, NodeError
from nodelib.files import TEMPORARY_SUFFIX, HostRoot, make_folder, write_whole
from nodelib.names import NVIDIA_DOMAIN
from nodelib.spec_document import MAX_BYTES
from nodelib.spec_files import FOLDERS, MODE, SUFFIXES, Resolution, SpecFile, parse_file, resolve
from nodelib.spec_plan import RemoveSpec, Step, WriteSpec

_SETTLED_NS = 1_000_000_000
"""A file that was changed so short a time ago may change again without its times telling: they move with the clock's
tick."""
_ABANDONED_S = 60.0

_Identity = tuple[int, ...]


class SpecReader:
    """Reads the CDI folders of *host*; a file that did not change since the last time is not parsed again."""

    def __init__(self, host: HostRoot, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._host = host
        self._clock_ns = clock_ns
        self._known: dict[Path, tuple[_Identity, SpecFile]] = {}

    def read(self, folder: Path) -> tuple[SpecFile, ...]:
        """The spec files directly in *folder*, by name; none where there is no such folder.

        Raises InvalidValue where the folder is there and cannot be listed.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InvalidValue(f"cannot list the CDI folder {folder} ({error.strerror})") from error
        found = (self.read_file(path) for path in paths)
        return tuple(file for file in found if file is not None)

    def resolve(self, folders: Sequence[str] = FOLDERS) -> Resolution:
        """What *folders* of the host, the later ones winning, resolve to."""
        return resolve(self.read(self._host.resolve(folder)) for folder in folders)

    def read_file(self, path: Path) -> SpecFile | None:
        """The spec file at *path*, a link followed inside the host's root; None if it is a folder or not there."""
        is_link = path.is_symlink()
        try:
            real = self._behind(path) if is_link else path
            found = real.stat()
            identity = (is_link, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            known = self._known.get(path)
            if known is not None and known[0] == identity:
                return known[1]
            if stat.S_ISDIR(found.st_mode) and not is_link:
                return None  # runtimes pass over subfolders, whatever their names
            file = parse_file(path, _content(real, found), stat.S_IMODE(found.st_mode), is_link=is_link)
        except FileNotFoundError:
            return SpecFile(path, b"", None, "a link to nowhere", is_link=True) if is_link else None
        except OSError as error:
            return SpecFile(path, b"", None, f"cannot be read ({error.strerror})", is_link=is_link)
        except InvalidValue as error:  # of links without end
            return SpecFile(path, b"", None, f"cannot be read ({error})", is_link=is_link)
        if self._clock_ns() - found.st_ctime_ns > _SETTLED_NS:
            self._known[path] = (identity, file)
        return file

    def _behind(self, link: Path) -> Path:
        """What *link* leads to: for a link of the host, inside the host's root."""
        root = self._host.root
        return self._host.resolve(f"/{link.relative_to(root)}") if link.is_relative_to(root) else link


def _content(path: Path, found: os.stat_result) -> bytes:
    """At most a byte more than a spec may have; a pipe that has just taken the file's place is not waited for."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "no regular file: a runtime may hang on it")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_BYTES + 1)


def leftovers(folder: Path, now_s: float) -> tuple[RemoveSpec, ...]:
    """Steps that remove what killed writers left in *folder*; a younger one may be another instance's at work."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f".{NVIDIA_DOMAIN}-*{TEMPORARY_SUFFIX}")):
            with contextlib.suppress(OSError):  # renamed or removed just now
                if now_s - path.lstat().st_mtime > _ABANDONED_S:
                    found.append(RemoveSpec(path, "a write that was cut short left it"))
    return tuple(found)


def apply(step: Step) -> None:
    """Do one step. Raises NodeError with the path; the folder is then as it was."""
    try:
        match step:
            case WriteSpec(path, content):
                make_folder(Path(path.parent))
                write_whole(Path(path), content, mode=MODE)
            case RemoveSpec(path):
                Path(path).unlink(missing_ok=True)
            case _:
                assert_never(step)
    except OSError as error:
        raise NodeError(f"cannot {step} ({error.strerror}): {_remedy(error, step.path.parent)}") from error


def _remedy(error: OSError, folder: PurePath) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"make room on the file system of {folder}; what was there before is still whole"
    return f"make {folder} writable for this agent"
