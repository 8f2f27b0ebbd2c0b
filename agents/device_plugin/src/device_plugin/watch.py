"""What wakes us: which of the kernel's events, and folders, those included that appear only while we run."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from nodelib.folders import watched_folders
from nodelib.wakeups import Wakeups

UEVENT_SUBSYSTEMS = ("pci", "vfio", "vfio-dev", "iommu")
"""What the kernel has to say about devices, their drivers and their VFIO nodes."""

_Seen = dict[Path, tuple[int, int] | None]


class FolderWatch:
    """Listens while entered; `refresh` follows folders that were made, or made anew, since."""

    def __init__(self, wakeups: Wakeups, folders: Callable[[], Sequence[Path]]) -> None:
        self._wakeups = wakeups
        self._folders = folders
        self._watching: ExitStack | None = None
        self._seen: _Seen = {}

    def __enter__(self) -> Self:
        self._watching = ExitStack()
        self._watch(self._look())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.close()
        self._watching = None

    def refresh(self) -> None:
        """Watch the folders as they are now. Called at the beginning of a round, it misses nothing."""
        if self._watching is not None and (seen := self._look()) != self._seen:
            before, self._watching = self._watching, ExitStack()
            self._watch(seen)
            before.close()

    def _watch(self, seen: _Seen) -> None:
        if self._watching is not None:
            self._watching.enter_context(watched_folders(self._wakeups, tuple(seen)))
        self._seen = seen

    def _look(self) -> _Seen:
        return {folder: _identity(folder) for folder in self._folders()}


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
