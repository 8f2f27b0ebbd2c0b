"""Wake-ups from the kernel's uevents, from the real kernel."""

import os
import socket
import threading
from pathlib import Path

import pytest

from nodelib import uevents
from nodelib.uevents import kernel_uevents
from nodelib.wakeups import Wakeups
from tests.nodelib.samples import DEADLINE_S

LOOPBACK = Path("/sys/class/net/lo/uevent")
"""Writing `change` here lets the kernel announce the loopback device once more, and changes nothing."""

needs_root = pytest.mark.skipif(
    not os.access(LOOPBACK, os.W_OK), reason="only root can have the kernel announce a device"
)


@needs_root
def test_the_kernels_own_events_wake_whoever_listens_to_their_subsystem() -> None:
    wakeups = Wakeups()
    with kernel_uevents(wakeups, ["net"]) as is_noticed:
        if not is_noticed:
            pytest.skip("this machine has no libudev, or no netlink for events")
        LOOPBACK.write_text("change")
        assert "net change lo" in wakeups.wait(DEADLINE_S)
    assert "uevents" not in {thread.name for thread in threading.enumerate()}


@needs_root
def test_lost_events_are_one_reason_to_look_again_and_later_ones_are_told() -> None:
    """netlink(7): where the buffer is full the kernel drops messages and the socket answers ENOBUFS."""
    wakeups = Wakeups()
    try:
        monitor = uevents._open_monitor(["net"])
    except (ImportError, OSError) as error:
        pytest.skip(f"this machine has no libudev, or no netlink for events ({error})")
    with socket.socket(fileno=os.dup(monitor.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it its least, a few messages
    for _ in range(50):
        LOOPBACK.write_text("change")
    for _ in range(50):
        uevents._take(monitor, wakeups)
    lost, *told = wakeups.wait(DEADLINE_S)
    assert lost == "lost kernel events (No buffer space available)"
    assert "net change lo" in told
    LOOPBACK.write_text("change")
    uevents._take(monitor, wakeups)
    assert "net change lo" in wakeups.wait(DEADLINE_S)


def test_where_no_events_can_be_had_the_timer_remains(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever this machine offers, entering says truly whether events come, and leaving leaves no thread."""
    with kernel_uevents(Wakeups(), ["pci", "vfio-dev"]) as is_noticed:
        assert is_noticed is ("no kernel events here" not in caplog.text)
    assert "uevents" not in {thread.name for thread in threading.enumerate()}
