"""The wait after a failed attempt for which operands were paused: each such attempt restarts their pods."""

from cc_manager.clock import Clock
from cc_manager.mode import CcMode

FIRST_S = 60.0
LONGEST_S = 900.0


class Rest:
    """Grows from attempt to attempt; ended by a touched label, which is somebody's word that it may go better now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mode: CcMode | None = None
        self._pause_s = 0.0
        self._ends_at = 0.0

    def begin(self, mode: CcMode) -> None:
        """An attempt to reach *mode* failed."""
        again = mode is self._mode
        self._mode = mode
        self._pause_s = min(LONGEST_S, self._pause_s * 2) if again and self._pause_s else FIRST_S
        self._ends_at = self._clock.monotonic() + self._pause_s

    def is_on(self, mode: CcMode) -> bool:
        """Whether an attempt to reach *mode* is to wait; another mode is another matter."""
        return mode is self._mode and self._clock.monotonic() < self._ends_at

    def end(self) -> None:
        """The next attempt may begin at once. May be called from any thread."""
        self._ends_at = 0.0

    def forget(self) -> None:
        """All is well: the next failure is a first one."""
        self._mode, self._pause_s = None, 0.0
