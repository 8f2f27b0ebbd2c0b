"""Only one process of the node changes modes: a lock that the kernel frees when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodelib.errors import NodeError


@contextmanager
def mode_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at *path*. Raises NodeError at once if somebody else does, or if it cannot be had."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise NodeError(f"cannot open the lock {path} ({error.strerror}): run as root") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise NodeError(
            f"another cc-manager on this node holds {path}: set the label nvidia.com/cc.mode instead, or stop it first"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
