"""A thread that waits for a descriptor, and ends the moment it is told to."""

import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def listening(name: str, descriptor: int, on_readable: Callable[[], None]) -> Iterator[None]:
    """Call *on_readable* in a thread called *name* whenever *descriptor* can be read, while entered."""
    ended = os.eventfd(0, os.EFD_CLOEXEC)

    def listen() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while ended not in {ready for ready, _ in poll.poll()}:
            on_readable()

    thread = threading.Thread(target=listen, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(ended, 1)
        thread.join()
        os.close(ended)
