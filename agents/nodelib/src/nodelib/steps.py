"""Carrying out a plan: the one place that logs steps and knows about dry runs."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)
S = TypeVar("S")


def carry_out(
    steps: Sequence[S],
    do: Callable[[S], object],
    *,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Do *steps* in order, each logged before it is done; in a dry run log what would be done.

    What a step raises ends the plan: the rest was planned on its success. *stopped* is asked before each step, so
    that a stopping agent does not begin another.
    """
    for step in steps:
        if stopped():
            log.info("stopping before: %s", step)
            return
        if dry_run:
            log.info("would %s", step)
            continue
        log.info("%s", step)
        do(step)
