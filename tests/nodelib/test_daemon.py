"""The life of a daemon. DESIGN section 2; field problem 27."""

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.daemon import Backoff, Daemon, LoopState, RoundResult
from nodelib.errors import NodeError
from nodelib.wakeups import Wakeups
from tests.nodelib.samples import DEADLINE_S, PROPERTY, wait_until

READY = RoundResult(ready=True, message="all is as desired")
NEVER_S = 3600.0
AT_ONCE = Backoff(first_s=0.001, longest_s=0.001)


@contextmanager
def running(daemon: Daemon, wakeups: Wakeups) -> Iterator[None]:
    """Runs *daemon* in a thread that must have ended when the block is left."""
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield
    finally:
        wakeups.request_stop()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()


def failing(times: int, error: Exception, then: RoundResult = READY) -> Callable[[], RoundResult]:
    """A round that raises *error* for the first *times*."""
    left = [error] * times

    def one_round() -> RoundResult:
        if left:
            raise left.pop()
        return then

    return one_round


def test_the_first_round_begins_at_once_and_its_result_is_told() -> None:
    wakeups = Wakeups()
    daemon = Daemon(lambda: READY, wakeups, interval_s=NEVER_S)
    assert not daemon.state.result.ready  # before the first round nothing is known
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds == 1)
        assert daemon.state.result == READY
        assert (daemon.state.failures, daemon.state.failures_in_a_row) == (0, 0)


def test_the_timer_alone_keeps_the_rounds_going() -> None:
    """Events make it fast, the timer makes it right."""
    wakeups = Wakeups()
    daemon = Daemon(lambda: READY, wakeups, interval_s=0.001)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds >= 5)


def test_an_event_begins_a_round_before_its_time() -> None:
    wakeups = Wakeups()
    daemon = Daemon(lambda: READY, wakeups, interval_s=NEVER_S)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds == 1)
        wakeups.wake("pci remove")
        wait_until(lambda: daemon.state.rounds == 2)


def test_events_during_a_round_are_answered_by_one_more_round() -> None:
    wakeups = Wakeups()
    begun, go_on = threading.Event(), threading.Event()

    def one_round() -> RoundResult:
        begun.set()
        assert go_on.wait(DEADLINE_S)
        return READY

    daemon = Daemon(one_round, wakeups, interval_s=NEVER_S)
    with running(daemon, wakeups):
        assert begun.wait(DEADLINE_S)
        for number in range(50):
            wakeups.wake(f"event {number}")
        go_on.set()
        wait_until(lambda: daemon.state.rounds == 2)
        wakeups.wake("one more")
        wait_until(lambda: daemon.state.rounds >= 3)
    assert daemon.state.rounds == 3


# --- failures


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NodeError("the API server is away"), "the API server is away"),
        (ZeroDivisionError("by a bug"), "internal error: ZeroDivisionError('by a bug'); please report it"),
    ],
)
def test_neither_a_failure_nor_a_bug_ends_the_loop(error: Exception, message: str) -> None:
    wakeups = Wakeups()
    seen: list[RoundResult] = []
    one_round = failing(3, error)

    def watched() -> RoundResult:
        seen.append(daemon.state.result)
        return one_round()

    daemon = Daemon(watched, wakeups, interval_s=NEVER_S, backoff=AT_ONCE)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.result == READY)
    assert [result.message for result in seen[1:4]] == [message] * 3
    assert not any(result.ready for result in seen[1:4])
    assert (daemon.state.rounds, daemon.state.failures, daemon.state.failures_in_a_row) == (4, 3, 0)


def test_a_round_that_asks_for_it_is_tried_again_soon() -> None:
    wakeups = Wakeups()
    waiting = RoundResult(ready=False, message="0000:3b:00.0 is in use", retry=True)
    daemon = Daemon(lambda: waiting, wakeups, interval_s=NEVER_S, backoff=AT_ONCE)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds >= 3)
    assert daemon.state.failures_in_a_row == daemon.state.failures == daemon.state.rounds


def test_a_round_that_is_not_ready_and_asks_for_nothing_waits_for_an_event() -> None:
    wakeups = Wakeups()
    daemon = Daemon(lambda: RoundResult(ready=False), wakeups, interval_s=NEVER_S, backoff=AT_ONCE)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds == 1)
        wakeups.wake("event")
        wait_until(lambda: daemon.state.rounds >= 2)
    assert (daemon.state.rounds, daemon.state.failures) == (2, 0)


@PROPERTY
@given(st.integers(1, 10**6), st.floats(0.001, 10), st.floats(10, 1000))
def test_pauses_grow_up_to_the_longest(failures: int, first_s: float, longest_s: float) -> None:
    backoff = Backoff(first_s, longest_s)
    assert backoff.pause_s(1) == first_s
    assert first_s <= backoff.pause_s(failures) <= backoff.pause_s(failures + 1) <= longest_s
    assert backoff.pause_s(failures + 1) in (longest_s, 2 * backoff.pause_s(failures)) or failures > 16


def test_the_pause_after_failures_grows_and_is_never_longer_than_the_timer() -> None:
    daemon = Daemon(lambda: READY, Wakeups(), interval_s=30.0, backoff=Backoff(1.0, 60.0))
    pauses = []
    for failures in (1, 2, 3, 100):
        daemon.state = LoopState(failures_in_a_row=failures)
        pauses.append(daemon._pause_s())
    assert pauses == [1.0, 2.0, 4.0, 30.0]


def test_the_timer_is_jittered_so_that_a_cluster_does_not_look_in_step() -> None:
    daemon = Daemon(lambda: READY, Wakeups(), interval_s=30.0)
    pauses = {daemon._pause_s() for _ in range(50)}
    assert len(pauses) > 1
    assert all(27.0 <= pause <= 33.0 for pause in pauses)


# --- what is logged


def test_a_result_is_logged_once_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """Field problem 38: a reason must show, and not every thirty seconds."""
    caplog.set_level(logging.INFO)
    wakeups = Wakeups()
    daemon = Daemon(failing(3, NodeError("the socket is gone")), wakeups, interval_s=0.001, backoff=AT_ONCE)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds >= 6)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the socket is gone"),
        ("INFO", "all is as desired"),
    ]


def test_a_bug_leaves_its_traceback_in_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wakeups = Wakeups()
    daemon = Daemon(failing(1, ZeroDivisionError("by a bug")), wakeups, interval_s=NEVER_S, backoff=AT_ONCE)
    with running(daemon, wakeups):
        wait_until(lambda: daemon.state.rounds >= 2)
    assert "Traceback" in caplog.text


# --- the end


def test_a_stop_before_the_start_lets_no_round_begin() -> None:
    wakeups = Wakeups()
    wakeups.request_stop()
    daemon = Daemon(lambda: READY, wakeups)
    daemon.run()
    assert daemon.state.rounds == 0


def test_a_loop_that_broke_ends_the_process_instead_of_looking_alive() -> None:
    endless = float("inf")  # no lock can wait so long
    with pytest.raises(NodeError, match=r"internal error outside of any round: OverflowError"):
        Daemon(lambda: READY, Wakeups(), interval_s=endless).run()


SCRIPT = """
import signal, sys, threading, time
from nodelib.daemon import Daemon, RoundResult
from nodelib.wakeups import Wakeups, stop_on_signals
wakeups = Wakeups()
stop_on_signals(wakeups)
def one_round():
    print("round", flush=True)
    if sys.argv[1] == "hangs":
        threading.Event().wait()
    if sys.argv[1] == "is told elsewhere":
        while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "wait":
            time.sleep(0.002)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    return RoundResult(ready=True)
Daemon(one_round, wakeups, interval_s=3600).run()
print("stopped in order", flush=True)
"""


@pytest.mark.parametrize("how", ["waits", "hangs"])
def test_sigterm_ends_a_daemon_whatever_it_is_waiting_for(how: str) -> None:
    """DESIGN section 2: within 5 s, although a round never comes back from the kernel."""
    command = [sys.executable, "-c", SCRIPT, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "round\n"
            child.send_signal(signal.SIGTERM)
            out, err = child.communicate(timeout=DEADLINE_S)
        finally:
            child.kill()
    assert (child.returncode, out) == (0, "stopped in order\n")
    assert ("stopping although a round still waits" in err) is (how == "hangs")


def test_sigterm_ends_a_daemon_whichever_thread_the_kernel_gives_it_to() -> None:
    """Python runs its handlers in the main thread alone, and does not wake it for them."""
    command = [sys.executable, "-c", SCRIPT, "is told elsewhere"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (result.returncode, result.stdout) == (0, "round\nstopped in order\n")
