"""What ends a daemon's waiting: events by name, and the one stop event of the process."""

import contextlib
import queue
import signal
import threading
import time

_STOP = "stop"


class Wakeups:
    """Reasons to look again, gathered from any thread, and whether to stop."""

    def __init__(self) -> None:
        self._reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.stop = threading.Event()

    def wake(self, reason: str) -> None:
        """Let the daemon look again now; *reason* goes to the log."""
        self._reasons.put(reason)

    def request_stop(self) -> None:
        """End the daemon, whatever it waits for. Not for signal handlers: see `stop_on_signals`."""
        self.stop.set()
        self._reasons.put(_STOP)

    def wait(self, timeout_s: float, settle_s: float = 0.02) -> tuple[str, ...]:
        """The reasons to wake, at the latest after *timeout_s* (then there are none).

        After the first reason it waits *settle_s* for more: the kernel announces one bind in several events, and one
        look serves them all.
        """
        reasons: list[str] = []
        with contextlib.suppress(queue.Empty):
            reasons.append(self._reasons.get(timeout=max(timeout_s, 0)))
            if not self.stop.is_set():
                time.sleep(settle_s)
            while True:
                reasons.append(self._reasons.get_nowait())
        return tuple(dict.fromkeys(reasons))


def stop_on_signals(wakeups: Wakeups) -> None:
    """Let SIGTERM and SIGINT end the daemon; to be called in the main thread before the first effect.

    A handler may interrupt the main thread while that holds the lock of the very event that it would set; it
    therefore only fills a SimpleQueue (which allows that), and a thread of its own does the rest.
    """
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()

    def pass_on() -> None:
        asked.get()
        wakeups.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: asked.put(received))
    threading.Thread(target=pass_on, name="stop", daemon=True).start()
