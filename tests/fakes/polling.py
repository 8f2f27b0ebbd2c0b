"""Waiting in tests: for a condition, never for a time."""

import time
from collections.abc import Callable

from nodelib.config_space import ConfigAnswer
from nodelib.pci import ConfigState, PciAddress
from nodelib.sysfs import Sysfs

DEADLINE_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds; a test that waits in vain fails."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def config_answer(sysfs: Sysfs, address: PciAddress) -> ConfigAnswer:
    """What the configuration space answers, however long a busy machine takes to ask it."""
    answers: list[ConfigAnswer] = []

    def has_answered() -> bool:
        answers.append(sysfs.config([address])[address])
        return answers[-1].state is not ConfigState.HUNG

    until(has_answered)
    return answers[-1]
