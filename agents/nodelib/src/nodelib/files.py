"""The host's files: paths below an injected root, and files that appear whole or not at all."""

import contextlib
import errno
import os
import tempfile
from pathlib import Path, PurePosixPath

from nodelib.errors import InvalidValue

_MAX_LINKS = 40
"""As many links as the kernel itself follows in one path (path_resolution(7))."""
TEMPORARY_SUFFIX = ".tmp"
"""Of a file that is being written; no CDI reader takes it."""


class HostRoot:
    """Where the host's file tree is: `/` on the host itself, `/host` in a container, a folder in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        if not root.is_dir():
            raise InvalidValue(f"host root {root} is not a folder: give --host-root the host's root file system")
        self.root = root.absolute()

    def resolve(self, path: str) -> Path:
        """The real place of the host's *path*, every link followed as if the root were `/`.

        A link to an absolute path (`/var/run -> /run`) stays inside the root, and `..` never leads out of it. The
        last part need not exist.
        """
        place = self.root
        left = list(PurePosixPath(path).parts)[::-1]
        links = 0
        while left:
            part = left.pop()
            if part in ("/", "."):
                continue
            if part == "..":
                place = place if place == self.root else place.parent
                continue
            step = place / part
            if not step.is_symlink():
                place = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise InvalidValue(f"{path} below {self.root} goes through too many links")
            target = PurePosixPath(step.readlink())
            place = self.root if target.is_absolute() else place
            left += target.parts[::-1]
        return place

    @property
    def shows_dev(self) -> bool:
        """Whether the host's /dev can be judged by.

        With the root at `/` it cannot: inside a container that is the container's own /dev, which never gains a node.
        Nor can an empty folder, which is what a mount of the host's root without those below it shows.
        """
        if self.root.samefile("/"):
            return False
        try:
            return any((self.root / "dev").iterdir())
        except OSError:
            return False


def make_folder(folder: Path, *, mode: int = 0o755) -> None:
    """Make *folder* and what is missing above it, with *mode* whatever the umask; what is there stays as it is.

    Raises OSError.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.is_dir()]
    for parent in reversed(missing):
        with contextlib.suppress(
            FileExistsError
        ):  # another instance was faster; if it is no folder, the last one tells
            parent.mkdir()
            parent.chmod(mode)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace *path* so that a reader finds the old content or all of the new, never a part.

    The temporary file lies in the same folder under a name that no CDI reader takes (see TEMPORARY_SUFFIX) and carries
    *mode* before it is renamed. Raises OSError; *path* is then as it was and nothing is left behind.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def ensure_file(path: Path, content: bytes, *, mode: int = 0o644) -> bool:
    """Write *path* only if it differs from *content*; whether it was written."""
    try:
        if not path.is_symlink() and path.read_bytes() == content and (path.stat().st_mode & 0o777) == mode:
            return False
    except OSError:
        pass  # absent or unreadable: both are mended by writing it
    write_whole(path, content, mode=mode)
    return True
