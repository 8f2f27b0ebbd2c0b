"""Wake-ups from the kernel's uevents; without them the timer alone keeps the agents right."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nodelib.listening import listening
from nodelib.wakeups import Wakeups

if TYPE_CHECKING:
    import pyudev

log = logging.getLogger(__name__)

_BUFFER_BYTES = 16 * 1024 * 1024
"""A rescan of a large machine sends thousands of events at once; a full buffer loses some."""


@contextlib.contextmanager
def kernel_uevents(wakeups: Wakeups, subsystems: Sequence[str]) -> Iterator[bool]:
    """Wake the daemon at every uevent of *subsystems* while entered; gives whether events come at all.

    The kernel's own messages are listened to, not udevd's: those do not leave the host's network namespace. Where the
    socket cannot be had (no libudev, no permission) that is said once, and the timer remains.
    """
    try:
        monitor = _open_monitor(subsystems)
    except (ImportError, OSError) as error:
        log.warning("no kernel events here (%s); changes are noticed at the timer's pace", error)
        yield False
        return
    with listening("uevents", monitor.fileno(), lambda: _take(monitor, wakeups)):
        yield True


def _open_monitor(subsystems: Sequence[str]) -> "pyudev.Monitor":
    import pyudev  # only a daemon listens; `status` must answer at once

    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    for subsystem in subsystems:
        monitor.filter_by(subsystem)
    with contextlib.suppress(OSError):  # more than the system's limit needs CAP_NET_ADMIN; ENOBUFS below is handled
        monitor.set_receive_buffer_size(_BUFFER_BYTES)
    monitor.start()
    return monitor


def _take(monitor: "pyudev.Monitor", wakeups: Wakeups) -> None:
    """Turn the event that waits into a reason to wake."""
    try:
        event = monitor.poll(0)
    except OSError as error:
        # ENOBUFS: events were lost, so anything may have changed; looking again is the whole cure. Until its error
        # has been fetched the socket tells nothing else and is ready at once, for ever (socket(7), SO_ERROR).
        with socket.socket(fileno=os.dup(monitor.fileno())) as same:
            pending = same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        wakeups.wake(f"lost kernel events ({os.strerror(pending or error.errno or errno.ENOBUFS)})")
        return
    if event is not None:
        wakeups.wake(f"{event.subsystem} {event.action} {event.sys_name}")
