"""Wake-ups from files that come, go or change in a folder (inotify)."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

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
