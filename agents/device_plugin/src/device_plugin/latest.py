"""The newest value of something, handed from one thread that makes it to any number that wait for it."""

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Holds an immutable value; whoever reads it gets all of it, and none of a half-made next one."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        with self._changed:
            self._value = value
            self._version += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End every reader once it has seen the value that is there now."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let every reader ask again whether anybody still wants to hear from it."""
        with self._changed:
            self._changed.notify_all()

    def each(self, wanted: Callable[[], bool]) -> Iterator[T]:
        """The value now, then each newer one; a reader that is slow skips those in between.

        Ends when closed, or when *wanted* no longer holds.
        """
        seen = -1
        while True:
            with self._changed:
                while self._version == seen and not self._closed and wanted():
                    self._changed.wait()
                if self._version == seen or not wanted():
                    return
                seen, value = self._version, self._value
            yield value
