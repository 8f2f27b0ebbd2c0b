"""The life of a daemon: rounds until told to stop, quick on events, right by a timer, patient with failures."""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nodelib.errors import NodeError
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)

STOP_GRACE_S = 4.0
"""How long a round may take to notice the stop; then the process ends around it (5 s in all are promised)."""
_SIGNALS_S = 0.5


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round came to."""

    ready: bool
    """Whether the node now is as desired: what /readyz tells."""
    message: str = ""
    """Why not, or what was reached, in one sentence."""
    retry: bool = False
    """Whether to try again soon, with backoff, instead of waiting for an event."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses between failing rounds."""

    first_s: float = 1.0
    longest_s: float = 60.0

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures in a row (at least one)."""
        return float(min(self.longest_s, self.first_s * 2 ** min(failures - 1, 16)))


@dataclass(frozen=True, slots=True)
class LoopState:
    """What `/healthz`, `/readyz` and the metrics see of the loop."""

    rounds: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    last_round_s: float = 0.0
    next_round: float = 0.0
    """Monotonic time at which the round that is due begins, or the one that runs began: since then it owes an end."""
    result: RoundResult = RoundResult(ready=False, message="the first round has not ended yet")


class Daemon:
    """Runs *one_round* again and again: on each wake-up, on the timer, and with backoff after a failure."""

    def __init__(
        self,
        one_round: Callable[[], RoundResult],
        wakeups: Wakeups,
        *,
        interval_s: float = 30.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._one_round = one_round
        self._wakeups = wakeups
        self._interval_s = interval_s
        self._backoff = backoff or Backoff()
        self._broken: Exception | None = None
        self.state = LoopState(next_round=time.monotonic())

    def run(self) -> None:
        """Rounds until the stop event; returns within `STOP_GRACE_S` of it, whatever a round is waiting for.

        Raises NodeError if the loop itself broke: a process that does nothing must not look alive.
        """
        rounds = threading.Thread(target=self._run_rounds, name="rounds", daemon=True)
        rounds.start()
        # Python's signal handlers run in this thread, and only when it runs: a signal that the kernel gave to another
        # thread does not end a wait without a timeout, and SIGTERM would be lost for good.
        while not self._wakeups.stop.wait(_SIGNALS_S):
            pass
        rounds.join(STOP_GRACE_S)
        if rounds.is_alive():
            log.warning("stopping although a round still waits for the kernel; it changes nothing after this")
        if self._broken:
            raise NodeError(f"internal error outside of any round: {self._broken!r}; please report it")

    def _run_rounds(self) -> None:
        try:
            while not self._wakeups.stop.is_set():
                self.state = self._try_round()
                pause_s = self._pause_s()
                self.state = replace(self.state, next_round=time.monotonic() + pause_s)
                if reasons := self._wakeups.wait(pause_s):
                    log.debug("woken by %s", ", ".join(reasons))
                self.state = replace(self.state, next_round=time.monotonic())
        except Exception as error:  # noqa: BLE001 - a broken log stream, say: nobody is left to tell but the exit code
            self._broken = error
            self._wakeups.request_stop()

    def _try_round(self) -> LoopState:
        begin = time.monotonic()
        failed = True
        try:
            result = self._one_round()
            failed = result.retry
        except NodeError as error:
            result = RoundResult(ready=False, message=str(error), retry=True)
        except Exception as error:  # the loop decides: a bug must neither end the daemon nor hide
            log.debug("internal error", exc_info=True)
            result = RoundResult(ready=False, message=f"internal error: {error!r}; please report it", retry=True)
        if result.message and result != self.state.result:
            log.log(logging.INFO if result.ready else logging.WARNING, "%s", result.message)
        end = time.monotonic()
        return LoopState(
            rounds=self.state.rounds + 1,
            failures=self.state.failures + failed,
            failures_in_a_row=self.state.failures_in_a_row + 1 if failed else 0,
            last_round_s=end - begin,
            next_round=end,
            result=result,
        )

    def _pause_s(self) -> float:
        if self.state.failures_in_a_row:
            return min(self._interval_s, self._backoff.pause_s(self.state.failures_in_a_row))
        # Jittered, so that the nodes of a cluster do not all look at the same instant.
        return self._interval_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret depends on it
