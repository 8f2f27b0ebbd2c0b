"""The file by which an agent tells others on the node that it is done: there while true, gone otherwise."""

import contextlib

from nodelib.errors import NodeError
from nodelib.files import HostRoot, ensure_file


class ReadyFile:
    """An agent's ready file on the host; with an empty *path* there is none to keep."""

    def __init__(self, host: HostRoot, path: str) -> None:
        self._path = host.resolve(path) if path else None

    def tell(self, *, ready: bool) -> None:
        """Make the file say *ready*. Raises NodeError if it should be there and cannot be written."""
        if self._path is None:
            return
        if not ready:
            self.retract()
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            ensure_file(self._path, b"")
        except OSError as error:
            raise NodeError(
                f"cannot write the ready file {self._path} ({error.strerror}): mount its folder writable"
            ) from error

    def retract(self) -> None:
        """Remove the file. What cannot be removed was not writable either, so never ours."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
