"""Time, handed in, so that tests do not sleep and a daemon that is told to stop does not either."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from.

    A `sleep` that raises ends whatever was waiting: a daemon hands in one that waits on its stop event, because boots
    and firmware answers can take longer than a stop may.
    """

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def wait_until(self, condition: Callable[[], bool], timeout_s: float, poll_s: float) -> bool:
        """Whether *condition* came true within *timeout_s*, looked at every *poll_s*."""
        deadline = self.monotonic() + timeout_s
        while True:
            # The time is taken before the look, so that a process which was held up still looks once after it.
            is_last = self.monotonic() >= deadline
            if condition():
                return True
            if is_last:
                return False
            self.sleep(poll_s)
