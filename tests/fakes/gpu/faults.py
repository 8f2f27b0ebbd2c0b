"""What can be made to go wrong, as data that a test sets before or while the device runs."""

from dataclasses import dataclass

ALL_ONES = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FspError:
    """An error code that the FSP answers instead of doing the request; None means any."""

    code: int
    knob: int | None = None
    is_write: bool | None = None

    def applies_to(self, knob: int, *, is_write: bool) -> bool:
        return self.knob in {None, knob} and self.is_write in {None, is_write}


@dataclass(slots=True)
class Faults:
    fsp_is_hung: bool = False
    """Packets stay in the command queue."""
    fsp_is_silent: bool = False
    """Packets are taken and carried out, but never answered."""
    fsp_errors: tuple[FspError, ...] = ()
    """The first that applies to a request is its answer."""
    answer_instead: tuple[int, ...] = ()
    """These words, MCTP header included, replace every answer: short, of another type, too long.
    At least two: the queue registers cannot tell a message of one word from none."""
    stale_answer: tuple[int, ...] = ()
    """A message that nobody living asked for. Emptied when it has been put into the queue."""
    stale_after_s: float = 0.0
    """How long after the next access the stale answer comes."""
    left_in_queue: tuple[int, ...] = ()
    """What a tool wrote that was killed before it rang the bell: the command queue is not empty and
    nothing will empty it. Emptied when it has been put into the queue."""
    boot_never_completes: bool = False
    """From the next reset on, or for the boot that is under way."""
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
    """Bit 30 of the recovery register is set."""
    identity: int | None = None
    """What offset 0 reads instead: 0 recovery, 0xbadf0200 or 0xbad00200 a security fault,
    0x006000a1 a switch of the second generation."""
