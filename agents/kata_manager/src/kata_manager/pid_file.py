"""The file by which existing manifests probe the daemon: its process id, there for as long as it runs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nodelib.errors import NodeError
from nodelib.files import ensure_file

NAME = "k8s-kata-manager.pid"


@contextlib.contextmanager
def pid_file(folder: str) -> Iterator[None]:
    """Keep our process id in the file NAME of *folder*, which is made if need be; with an empty *folder* keep none.

    A path as the probe in our own container sees it, not one of the host. Raises NodeError if it cannot be written.
    """
    if not folder:
        yield
        return
    path = Path(folder, NAME)
    content = f"{os.getpid()}\n".encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ensure_file(path, content)
    except OSError as error:
        raise NodeError(
            f"cannot write {path} ({error.strerror}): mount a writable folder there, or unset KATA_ARTIFACTS_DIR"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:  # the folder is the host's: our successor may have begun
                path.unlink()
