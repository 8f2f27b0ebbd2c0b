"""Wake-ups from the kernel's uevents."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nodelib import uevents
from nodelib.uevents import kernel_uevents
from nodelib.wakeups import Wakeups
from tests.nodelib.samples import DEADLINE_S

LOOPBACK = Path("/sys/class/net/lo/uevent")
"""Writing `change` here lets the kernel announce the loopback device once more, and changes nothing."""


def test_the_kernels_own_events_wake_whoever_listens_to_their_subsystem() -> None:
    if not os.access(LOOPBACK, os.W_OK):
        pytest.skip("only root can have the kernel send an event")
    wakeups = Wakeups()
    with kernel_uevents(wakeups, ["net"]) as is_noticed:
        if not is_noticed:
            pytest.skip("this machine has no libudev or no netlink for events")
        LOOPBACK.write_text("change")
        assert "net change lo" in wakeups.wait(DEADLINE_S)
    assert "uevents" not in {thread.name for thread in threading.enumerate()}


class ScriptedMonitor:
    """Answers each poll with the next of its acts; in place of a netlink socket whose buffer cannot be filled here."""

    def __init__(self, *acts: Callable[[], object]) -> None:
        self._acts = list(acts)

    def poll(self, _timeout_s: float) -> object:
        return self._acts.pop(0)()


def lose_events() -> object:
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def test_lost_events_are_a_reason_to_look_again() -> None:
    """recv(2) on a netlink socket: ENOBUFS, the kernel had more to say than the buffer could hold."""
    wakeups = Wakeups()
    event = SimpleNamespace(subsystem="pci", action="remove", sys_name="0000:3b:00.0")
    monitor = ScriptedMonitor(lambda: None, lambda: event, lose_events)
    for _ in range(3):
        uevents._take(monitor, wakeups)
    assert wakeups.wait(DEADLINE_S) == (
        "pci remove 0000:3b:00.0",
        "lost kernel events (No buffer space available)",
    )
