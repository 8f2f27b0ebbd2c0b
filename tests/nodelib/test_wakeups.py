"""What ends a daemon's waiting."""

import signal
import subprocess
import sys
import threading

import pytest

from nodelib.wakeups import Wakeups
from tests.nodelib.samples import DEADLINE_S, wait_until


def test_a_reason_that_came_before_the_waiting_is_not_lost() -> None:
    wakeups = Wakeups()
    wakeups.wake("pci add 0000:3b:00.0")
    assert wakeups.wait(DEADLINE_S) == ("pci add 0000:3b:00.0",)
    assert wakeups.wait(0) == ()


@pytest.mark.parametrize("timeout_s", [0.01, 0, -1])
def test_without_a_reason_the_time_ends_the_waiting(timeout_s: float) -> None:
    assert Wakeups().wait(timeout_s) == ()


def test_all_that_came_is_one_wake_up_each_reason_once() -> None:
    wakeups = Wakeups()
    for reason in ("a", "b", "a", "a", "c", "b"):
        wakeups.wake(reason)
    assert wakeups.wait(DEADLINE_S) == ("a", "b", "c")
    assert wakeups.wait(0) == ()


def test_what_follows_at_once_belongs_to_the_same_wake_up() -> None:
    """The kernel announces one bind in several events."""
    wakeups = Wakeups()
    wakeups.wake("first")

    def follow() -> None:
        wait_until(wakeups._reasons.empty)
        wakeups.wake("second")

    follower = threading.Thread(target=follow)
    follower.start()
    assert wakeups.wait(DEADLINE_S, settle_s=0.5) == ("first", "second")
    follower.join()


def test_a_reason_from_another_thread_ends_the_waiting() -> None:
    wakeups = Wakeups()
    other = threading.Thread(target=wakeups.wake, args=("event",))
    other.start()
    assert wakeups.wait(DEADLINE_S) == ("event",)
    other.join()


def test_a_stop_ends_the_waiting_and_stays() -> None:
    wakeups = Wakeups()
    other = threading.Thread(target=wakeups.request_stop)
    other.start()
    assert wakeups.wait(DEADLINE_S) == ("stop",)
    other.join()
    assert wakeups.stop.is_set()


SCRIPT = """
from nodelib.wakeups import Wakeups, stop_on_signals
wakeups = Wakeups()
stop_on_signals(wakeups)
print("ready", flush=True)
while not wakeups.stop.is_set():
    wakeups.wait(3600)
print("stopped in order", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_process_in_order(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            child.send_signal(number)
            assert child.communicate(timeout=DEADLINE_S)[0] == "stopped in order\n"
            assert child.returncode == 0
        finally:
            child.kill()
