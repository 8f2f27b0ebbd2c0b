"""The transport of Blackwell: the mailbox at port 0 of the MNOC, to the device and from it.

Facts, section 3b. Time passes only in `settle`, which the device calls before every access. The facts do not say how a
mailbox gets rid of its error bit, or of a packet that a killed tool left unfinished: here both last until a reset.
"""

from collections import deque
from collections.abc import Sequence

from tests.fakes.gpu.faults import Faults, MailboxMoment
from tests.fakes.gpu.fsp import Fsp
from tests.fakes.gpu.transport import ANSWER_LIMIT_S, BUS_ERROR, Complain, Latencies, Message

TO_INFO, TO_DATA, FROM_INFO, FROM_DATA = 0x8F1F84, 0x8F1F88, 0x8F1F04, 0x8F1F08
LIMIT_BYTES = 4160
BLOCK_WORDS = 16
"""Credits are waited for "before each 64 bytes"."""

SIZE_BITS = 0xFFFFF
ANNOUNCE = 1 << 20
READY, ERROR, CREDITS = 1 << 24, 1 << 25, 1 << 26
INTERRUPT_STATUS = 1 << 31


class MnocTransport:
    def __init__(self, fsp: Fsp, faults: Faults, complain: Complain, latencies: Latencies) -> None:
        self._fsp = fsp
        self._faults = faults
        self._complain = complain
        self._latencies = latencies
        self.clear()

    def clear(self) -> None:
        self._fsp_listens = False
        self._has_error = False
        self._announced = 0
        self._packet: list[int] = []
        self._credit_due = 0.0
        self._blocks = 0
        self._complete_since: float | None = None
        self._outgoing: deque[Message] = deque()
        self._message: Sequence[int] = ()
        self._read = 0
        self._answer_has_error = False
        self._now = 0.0
        self.meet_client()

    def meet_client(self) -> None:
        # What the client has looked at: the waits and checks of section 3b leave no other trace. Who comes anew does
        # not answer for what a killed tool began; what that left in the mailboxes he finds there all the same.
        self._saw_ready = False
        self._saw_credits = False
        self._saw_message = False
        self._owes: str | None = None
        self._asked: float | None = None
        self._is_anothers = self._complete_since is not None
        """The packet that waits to be taken."""
        self._is_cut_short = bool(self._message) and self._read > 0
        """Somebody was killed while he read the message that is there, whose size is told as before."""
        self._fsp.clear()

    def wake_up(self) -> None:
        """A message of which only a part had come when the device fell asleep is lost."""
        self._announced = 0
        self._packet = []

    def owns(self, offset: int) -> bool:
        return offset in {TO_INFO, TO_DATA, FROM_INFO, FROM_DATA}

    def settle(self, now: float, *, fsp_listens: bool) -> None:
        self._now = now
        self._fsp_listens = fsp_listens
        if not fsp_listens:
            return
        self._leave_behind()
        if self._faults.mailbox_error is MailboxMoment.IDLE:
            self._has_error = True
        if self._faults.fsp_is_hung:
            return
        if self._complete_since is not None and now >= self._complete_since + self._latencies.take:
            self._take(self._complete_since)
        if self._outgoing and self._outgoing[0].due <= now and not self._message:
            self._post(self._outgoing.popleft().words)

    def read(self, offset: int) -> int:
        if offset == TO_INFO:
            return self._read_to_info()
        if offset == FROM_INFO:
            return self._read_from_info()
        if offset == FROM_DATA:
            return self._read_word()
        self._complain("the mailbox to the device is read")
        return BUS_ERROR

    def write(self, offset: int, value: int, now: float) -> None:
        if offset == TO_INFO:
            if value != INTERRUPT_STATUS:
                self._announce(value, now)
        elif offset == TO_DATA:
            self._take_word(value, now)
        elif offset == FROM_DATA or value != INTERRUPT_STATUS:
            self._complain(f"{offset:#x} := {value:#x}: the mailbox from the device is written")

    # --- to the device

    @property
    def _is_ready(self) -> bool:
        is_empty = not self._announced and self._complete_since is None
        return self._fsp_listens and is_empty and not self._faults.fsp_is_hung and not self._has_error

    @property
    def _has_credits(self) -> bool:
        if not self._announced or self._has_error:
            return False
        limit = self._faults.credits_end_after
        return bool(len(self._packet) % BLOCK_WORDS) or (
            (limit is None or self._blocks < limit) and self._now >= self._credit_due
        )

    def _read_to_info(self) -> int:
        if self._owes == "to the device":
            self._owes = None
        self._saw_ready = self._saw_ready or self._is_ready
        self._saw_credits = self._saw_credits or self._has_credits
        return self._is_ready * READY | self._has_error * ERROR | self._has_credits * CREDITS

    def _announce(self, value: int, now: float) -> None:
        what = f"{value:#010x} announced"
        size = value & SIZE_BITS
        self._expect_nothing_owed(what)
        if self._has_error:
            return self._complain(f"{what} to a mailbox with its error bit set")
        if not self._is_ready:
            return self._fail(f"{what} to a mailbox that is not ready")
        if not self._saw_ready:
            self._complain(f"{what} without a look at whether the mailbox is ready")
        if self._message:
            self._complain(f"{what} while a message is not read")
        elif self._asked is not None and now < self._asked + ANSWER_LIMIT_S:
            self._complain(f"{what} while the previous request is not answered")
        if value & ~INTERRUPT_STATUS != size | ANNOUNCE:
            return self._fail(f"{what}: not the size with bit 20 alone")
        if size % 4 or not 0 < size <= LIMIT_BYTES:
            return self._fail(f"{what}: no packet has {size} bytes")
        self._saw_ready = self._saw_credits = False
        if self._faults.mailbox_error is MailboxMoment.ANNOUNCED:
            self._has_error = True
            return None
        self._announced = size // 4
        self._packet = []
        self._blocks = 0
        self._credit_due = now + self._latencies.credit
        return None

    def _take_word(self, value: int, now: float) -> None:
        if self._has_error:
            return self._complain(f"{value:#010x} written to a mailbox with its error bit set")
        if not self._announced:
            return self._fail(f"{value:#010x} written, which no announcement has room for")
        if len(self._packet) % BLOCK_WORDS == 0:
            if not self._has_credits:
                return self._fail(f"word {len(self._packet)} written without credits")
            if not self._saw_credits:
                self._complain(f"word {len(self._packet)} written without a look at the credits")
            self._blocks += 1
            self._saw_credits = False
        self._packet.append(value)
        if len(self._packet) % BLOCK_WORDS == 0:
            self._credit_due = now + self._latencies.credit
            self._saw_credits = False
        if len(self._packet) == self._announced:
            self._announced = 0
            self._owes = "to the device"
            if self._faults.mailbox_error is MailboxMoment.SENT:
                self._has_error = True
            else:
                self._complete_since = now
        return None

    def _fail(self, why: str) -> None:
        self._complain(why)
        self._has_error = True
        self._announced = 0

    def _take(self, since: float) -> None:
        self._complete_since = None
        answer = self._fsp.take(self._packet)
        if answer is None:
            return
        if not self._is_anothers:
            self._asked = since
        self._is_anothers = False
        if not self._fsp.is_silent:
            self._outgoing.append(Message(since + self._latencies.answer, answer))

    # --- from the device

    def _post(self, words: Sequence[int]) -> None:
        self._asked = None
        self._answer_has_error = self._faults.mailbox_error in {MailboxMoment.WAITING, MailboxMoment.ANSWERED}
        if self._faults.mailbox_error is not MailboxMoment.WAITING:
            self._message = words
            self._is_cut_short = False
            self._read = 0
            self._saw_message = False

    def _read_from_info(self) -> int:
        if self._owes == "from the device":
            self._owes = None
        self._expect_nothing_owed("an answer looked for")
        self._saw_message = bool(self._message)
        size = len(self._message) * 4
        if self._message and self._faults.answer_size is not None:
            size = self._faults.answer_size
        return size | bool(self._message) * READY | self._answer_has_error * ERROR

    def _read_word(self) -> int:
        if not self._message:
            if not self._is_cut_short:
                self._complain("a word read from an empty mailbox")
            return BUS_ERROR
        if not self._saw_message:
            self._complain("a word read without a look at whether a message is ready")
        word = self._message[self._read]
        self._read += 1
        if self._read == len(self._message):
            self._message = ()
            self._owes = "from the device"
        return word

    def _expect_nothing_owed(self, what: str) -> None:
        if self._owes is not None:
            self._complain(f"{what} before the error bit of the mailbox {self._owes} was looked at")
            self._owes = None

    def _leave_behind(self) -> None:
        if self._faults.left_in_queue:
            words, self._faults.left_in_queue = self._faults.left_in_queue, ()
            self._packet = list(words)
            self._announced = len(words) + 1
        if self._faults.stale_answer:
            words, self._faults.stale_answer = self._faults.stale_answer, ()
            self._outgoing.append(Message(self._now + self._faults.stale_after_s, words))
