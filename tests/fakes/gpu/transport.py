"""What every transport has in common: it carries packets to the firmware and its answers back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

BUS_ERROR = 0xBADF1100

# "5 s is the time limit used in practice" (facts, section 3): a client that asks again sooner did not wait.
ANSWER_LIMIT_S = 5.0

Complain = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Message:
    due: float
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Latencies:
    """In seconds."""

    take: float
    """Last word, or bell, to the packet taken."""
    answer: float
    """The same to the answer."""
    credit: float
    """Announcement, or the end of a block, to the credits for the next block."""


class Transport(Protocol):
    """Time passes only in `settle`, which the device calls before every access."""

    def clear(self) -> None:
        """What a reset does to it."""
        ...

    def meet_client(self) -> None:
        """Somebody maps BAR0, who does not answer for what others did before."""
        ...

    def wake_up(self) -> None:
        """The device has slept, and somebody saw it."""
        ...

    def owns(self, offset: int) -> bool: ...

    def settle(self, now: float, *, fsp_listens: bool) -> None: ...

    def read(self, offset: int) -> int: ...

    def write(self, offset: int, value: int, now: float) -> None: ...


class NoTransport:
    """Of a chip that takes no messages."""

    def clear(self) -> None: ...

    def meet_client(self) -> None: ...

    def wake_up(self) -> None: ...

    def owns(self, offset: int) -> bool:
        return False

    def settle(self, now: float, *, fsp_listens: bool) -> None: ...

    def read(self, offset: int) -> int:
        raise NotImplementedError

    def write(self, offset: int, value: int, now: float) -> None:
        raise NotImplementedError
