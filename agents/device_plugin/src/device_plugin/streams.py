"""Which ListAndWatch calls are open, and what that says about the kubelet."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MAX_STREAMS = 4
"""Each keeps a worker; the kubelet needs one, and a person who looks with a client another."""


@dataclass(frozen=True, slots=True)
class KubeletStream:
    """The kubelet's own stream, as far as it has come since the last registration began."""

    began: bool = False
    ended: bool = False
    lived_s: float = 0.0


class Streams:
    """Counts streams in and out, from the threads that serve them."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._lock = threading.Lock()
        self._open: dict[int, float] = {}
        self._count = 0
        self._kubelets: int | None = None
        self._last = KubeletStream()

    def expect_kubelet(self) -> None:
        """Take the next stream for the kubelet's: it opens one right after it has answered a registration.

        It may open it before that answer reaches us, so this is called before asking.
        """
        with self._lock:
            self._kubelets = None
            self._last = KubeletStream()

    def begin(self) -> int | None:
        """The number of a stream that begins now; None if there are too many."""
        with self._lock:
            if len(self._open) >= MAX_STREAMS:
                return None
            self._count += 1
            number = self._count
            self._open[number] = time.monotonic()
            if self._kubelets is None:
                self._kubelets = number
                self._last = KubeletStream(began=True)
        self._on_change("stream opened")
        return number

    def end(self, number: int) -> None:
        with self._lock:
            began_at = self._open.pop(number)
            if number == self._kubelets:
                self._last = KubeletStream(began=True, ended=True, lived_s=time.monotonic() - began_at)
        self._on_change("stream ended")

    @property
    def kubelets(self) -> KubeletStream:
        with self._lock:
            return self._last
