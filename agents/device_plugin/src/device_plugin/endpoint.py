"""Our sockets in the kubelet's folder: their names, whose they are, and taking a place without taking another's."""

import contextlib
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from nodelib.errors import InvalidValue, NodeError
from nodelib.names import ResourceName

MAX_PATH_BYTES = 107
"""`sun_path` holds 108 bytes, the last of them a NUL (unix(7))."""
_PROBE_S = 0.5
_TEMPORARY = ".cgpu-"
_ABANDONED_S = 60.0


def endpoint_name(resource: ResourceName) -> str:
    """The file name of *resource*'s socket, which the kubelet is told at registration."""
    return f"{re.sub('[^A-Za-z0-9_.-]', '_', str(resource))}.sock"


def endpoint_path(folder: Path, resource: ResourceName) -> Path:
    """Where the socket of *resource* goes. Raises InvalidValue if the kernel cannot take so long a path."""
    path = folder / endpoint_name(resource)
    if (length := len(os.fsencode(path))) > MAX_PATH_BYTES:
        raise InvalidValue(
            f"the socket path {path} is {length} bytes long and the kernel takes {MAX_PATH_BYTES}: "
            "set a shorter alias, or mount the kubelet's folder at a shorter path"
        )
    return path


def temporary_path(folder: Path) -> Path:
    """A free name, shorter than any endpoint's, for a socket that is not in its place yet."""
    return folder / f"{_TEMPORARY}{os.urandom(4).hex()}"  # `secrets` would bring OpenSSL, 4 MiB


def remove_abandoned(folder: Path) -> None:
    """Remove what an instance that was killed left behind before its socket was in place.

    Only what has one of our temporary names, is old enough to be nobody's any more, and does not answer.
    """
    with contextlib.suppress(OSError):
        for path in folder.glob(f"{_TEMPORARY}*"):
            found = path.lstat()
            is_old = time.time() - found.st_mtime > _ABANDONED_S
            if is_old and stat.S_ISSOCK(found.st_mode) and not answers(path):
                path.unlink()


def why_blocked(folder: Path, resource: ResourceName) -> str:
    """Why no socket of *resource* can be put into *folder* as things stand; nothing if one can."""
    try:
        path = endpoint_path(folder, resource)
        if not folder.is_dir():
            return f"there is no folder {folder}: is this a node with a kubelet, and is its folder mounted?"
        if not os.access(folder, os.W_OK):
            return f"{folder} is not writable: mount it writable for this agent"
        _check_free(path)
    except NodeError as error:
        return str(error)
    return ""


class Endpoint:
    """One socket file of ours, known by its inode for as long as this lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Holding the inode keeps the file system from giving its number to somebody else's socket.
        self._pin = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)

    def is_in_place(self) -> bool:
        """Whether the path still leads to our socket: the kubelet removes all of them when it starts."""
        try:
            there = self.path.lstat()
        except OSError:
            return False
        ours = os.fstat(self._pin)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def remove(self) -> None:
        """Remove the socket if it is still ours, and forget it."""
        with contextlib.suppress(OSError):
            if self.is_in_place():
                self.path.unlink()
        os.close(self._pin)


def move_into_place(temporary: Path, path: Path) -> Endpoint:
    """Give the listening socket at *temporary* its name *path*, unless somebody else listens there.

    Raises NodeError. A link, not a rename: it fails where the name is taken. Bound under a name of its own, the
    socket cannot be removed by gRPC either, which at its end unlinks whatever is at the path it was bound to.
    """
    try:
        with _alone_in(path.parent):
            _check_free(path)
            path.unlink(missing_ok=True)  # left behind by an instance that was killed
            path.hardlink_to(temporary)
            return Endpoint(path)
    except OSError as error:
        raise NodeError(f"cannot put the socket {path} into place ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep a second instance from taking the socket that this one is placing for a dead one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise NodeError(f"another instance is at work in {folder}") from error
    finally:
        os.close(descriptor)


def _check_free(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_socket():
        raise NodeError(f"{path} is in the way and no socket: remove it")
    if answers(path):
        raise NodeError(f"another device plugin answers on {path}: stop one of the two")


def answers(path: Path) -> bool:
    """Whether somebody listens on the socket at *path*; in doubt, somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # its queue is full, or we may not connect: it is not ours to remove
    return True
