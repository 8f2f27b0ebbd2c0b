"""Waiting in tests: for a condition, never for a time."""

import time
from collections.abc import Callable

DEADLINE_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds; a test that waits in vain fails."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)
