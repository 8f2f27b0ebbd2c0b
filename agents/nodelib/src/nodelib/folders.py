"""Wake-ups from files that come, go or change in a folder (inotify)."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from nodelib.listening import listening
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)


@contextlib.contextmanager
def watched_folders(wakeups: Wakeups, folders: Sequence[Path]) -> Iterator[bool]:
    """Wake the daemon at every change in one of *folders* while entered; gives whether changes are noticed at all.

    A folder that is not there is passed over: the timer notices what appears in it. So are all of them where inotify
    is used up (fs.inotify.max_user_instances), which is said once.
    """
    import inotify_simple  # only a daemon listens; `status` must answer at once

    flags = inotify_simple.flags
    interesting = (
        flags.CREATE | flags.DELETE | flags.MOVED_TO | flags.MOVED_FROM | flags.CLOSE_WRITE | flags.DELETE_SELF
    )
    try:
        inotify = inotify_simple.INotify()
    except OSError as error:
        log.warning("no file events here (%s); changes are noticed at the timer's pace", error)
        yield False
        return
    names: dict[int, Path] = {}
    for folder in dict.fromkeys(folders):
        try:
            names[inotify.add_watch(str(folder), interesting)] = folder
        except OSError as error:
            log.debug("cannot watch %s (%s)", folder, error.strerror)

    def wake() -> None:
        for event in inotify.read(timeout=0):
            wakeups.wake(f"{names.get(event.wd, '?')}/{event.name}")

    with contextlib.closing(inotify), listening("folders", inotify.fileno(), wake):
        yield bool(names)


_Seen = dict[Path, tuple[int, int] | None]


class FolderWatch:
    """Watches folders that may be made, or made anew, while it listens; `refresh` follows them.

    Wakes the daemon as `watched_folders` does, while entered.
    """

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

    def refresh(self) -> bool:
        """Watch the folders as they are now; whether any is another than before.

        Called at the beginning of a round, it misses nothing; after a round that makes one, it may have.
        """
        if self._watching is None or (seen := self._look()) == self._seen:
            return False
        before, self._watching = self._watching, ExitStack()
        self._watch(seen)
        before.close()
        return True

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
