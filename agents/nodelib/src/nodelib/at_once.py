"""One thing done for many devices at the same time."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 32
"""Threads at work at the same time: more than any node has GPUs and switches."""


def at_once(do: Callable[[T], R], items: Sequence[T], *, most: int = MOST) -> tuple[R, ...]:
    """What *do* gives for each of *items*, a thread each, at most so many at work; in the order of *items*.

    When all have ended, raises what one of them raised. The threads do not keep the process alive, as those of a pool
    do: a stopped agent must end although the kernel holds one of them.
    """
    futures: list[Future[R]] = [Future() for _ in items]
    free = threading.Semaphore(most)

    def run(item: T, future: Future[R]) -> None:
        try:
            with free:
                future.set_result(do(item))
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that asked
            future.set_exception(error)

    for item, future in zip(items, futures, strict=True):
        threading.Thread(target=run, args=(item, future), name="device", daemon=True).start()
    wait(futures)
    return tuple(future.result() for future in futures)
