"""What can be made to go wrong, as data that a test sets before or while the device runs."""

from dataclasses import dataclass
from enum import Enum, auto

ALL_ONES = 0xFFFFFFFF


@dataclass(slots=True, eq=False)
class FspError:
    """An error code that the FSP answers instead of doing the request; None means any."""

    code: int
    knob: int | None = None
    is_write: bool | None = None
    times: int | None = None
    """How many requests are still answered so; None: all."""

    def applies_to(self, knob: int, *, is_write: bool) -> bool:
        return self.times != 0 and self.knob in {None, knob} and self.is_write in {None, is_write}

    def count(self) -> None:
        if self.times is not None:
            self.times -= 1


class MailboxMoment(Enum):
    """When a mailbox shows its error bit; it stays set until the next reset."""

    IDLE = auto()
    """Before anything is sent."""
    ANNOUNCED = auto()
    """As soon as a packet is announced: no credits come, and nothing is taken."""
    SENT = auto()
    """When all words of a packet are there: it is lost."""
    WAITING = auto()
    """The packet is carried out; instead of its answer comes the bit of the mailbox from the device."""
    ANSWERED = auto()
    """With the answer, of which every word can be read."""


@dataclass(slots=True)
class Faults:
    fsp_is_hung: bool = False
    """Packets stay in the command queue; the mailbox is never ready for another."""
    fsp_is_silent: bool = False
    """Packets are taken and carried out, but never answered."""
    fsp_silent_from: int | None = None
    """The same from this request on; the first ever is 1 (see `device.requests`)."""
    fsp_silent_to: int | None = None
    """The last of those; None: silent for ever."""
    fsp_errors: tuple[FspError, ...] = ()
    """The first that applies to a request is its answer."""
    answer_instead: tuple[int, ...] = ()
    """These words, MCTP header included, replace every answer: short, of another type, too long.
    At least two: the queue registers cannot tell a message of one word from none."""
    answer_size: int | None = None
    """The size in bytes that the queue or the mailbox tells of every answer, whatever it is in truth."""
    stale_answer: tuple[int, ...] = ()
    """A message that nobody living asked for. Emptied when it has been put into the queue."""
    stale_after_s: float = 0.0
    """How long after the next access the stale answer comes."""
    left_in_queue: tuple[int, ...] = ()
    """What a tool wrote that was killed before it rang the bell, or before the last word of what it had announced to
    the mailbox: the command queue is not empty, the mailbox not ready, and nothing will change that. Emptied when it
    has been put there."""
    credits_end_after: int | None = None
    """The mailbox gives credits for so many blocks of 64 bytes of a packet, and then no more."""
    mailbox_error: MailboxMoment | None = None
    boot_never_completes: bool = False
    """From the next reset on, or for the boot that is under way."""
    bus_errors_never_end: bool = False
    """The same, and the device never gets further than 0xbadf...."""
    firewall_stays_up: bool = False
    """The same, and BAR0 reads all ones for ever (chips that have a firewall)."""
    fsp_answers_while_booting: bool = False
    """Facts, section 5: if boot does not complete in time the FSP may still answer."""
    keeps_old_mode: bool = False
    """A reset leaves the active mode as it was, whatever is staged."""
    gone_at_reset: bool = False
    """The next reset is the last thing the device does."""
    gone_at_access: int | None = None
    """The device falls off the bus at this access; the first ever is 1 (see `device.accesses`)."""
    sleeping_reads: int = ALL_ONES
    """What BAR0 reads in D3hot: all ones on hardware, 0 under some emulators (facts, section 7)."""
    is_in_recovery: bool = False
    """The recovery register says so."""
    identity: int | None = None
    """What offset 0 reads instead: 0 recovery, 0xbadf0200 or 0xbad00200 a security fault."""
    fault_code: int = 0
    """The code of a security fault, in configuration space (facts, section 5)."""
