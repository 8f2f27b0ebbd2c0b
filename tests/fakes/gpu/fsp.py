"""The FSP firmware: takes packets, puts messages together, carries out PRC requests, answers.

Facts, sections 3 and 4. It knows nothing of the transport: a packet is a list of words, and so is an
answer. Every rejection is a complaint, so that a test can assert that there was none.
"""

from collections.abc import Callable, Sequence

from tests.fakes.gpu.faults import Faults
from tests.fakes.gpu.knobs import CC, CC_DEVTOOLS, PPCIE, Knobs, RefusedError

# Everything of an MCTP header but the sequence and the two ends must be 0 (facts, section 4: tag, tag
# owner and both endpoints are 0; section 3: so is the version).
SEQUENCE_SHIFT, SEQUENCE_MASK = 28, 0x3
END, START = 1 << 30, 1 << 31
FIXED_BITS = 0x0FFFFFFF

# Type 0x7e, no integrity check, vendor 0x10de: all of a message header but its NVDM type.
VENDOR_MESSAGE, NVDM_SHIFT = 0x10DE7E, 24
PRC, RESPONSE = 0x13, 0x15

READ_KNOB, WRITE_KNOB = 0x0C, 0x0D
PRC_ARGUMENT = 0x2
LENGTHS = {READ_KNOB: 1, WRITE_KNOB: 2}

# "The upper half may be rubbish." The first makes every knob look like an error marker of the internal bus, which EMEM
# data "may legitimately match" (section 2); but "the EMEM read is the only read where 0xbadf.... may be data" (3a).
EMEM_RUBBISH, OTHER_RUBBISH = 0xBADF, 0xFADE

# The facts name no numbers for these: a client may know only that they are not 0 and not 0x1e3.
UNKNOWN_TYPE = 0x2B1
BAD_LENGTH = 0x2B2
UNKNOWN_COMMAND = 0x2B3

INVALID_CC_BITS = 0b10


class Fsp:
    def __init__(self, knobs: Knobs, faults: Faults, complain: Callable[[str], None], rubbish: int) -> None:
        self._knobs = knobs
        self._faults = faults
        self._complain = complain
        self._rubbish = rubbish
        self._collected: list[int] = []
        self._next_sequence: int | None = None
        self._task_id = 0
        self.requests: list[tuple[int, ...]] = []
        self.knob_writes: list[tuple[int, int]] = []

    @property
    def is_silent(self) -> bool:
        """Whether the last request is not answered."""
        first, last = self._faults.fsp_silent_from, self._faults.fsp_silent_to
        number = len(self.requests)
        is_chosen = first is not None and number >= first and (last is None or number <= last)
        return self._faults.fsp_is_silent or is_chosen

    def take(self, packet: Sequence[int]) -> tuple[int, ...] | None:
        """The answer, MCTP header included; None as long as, or because, there is nothing to say."""
        header, *content = packet
        if not self._continues(header):
            return None
        if not content:
            self._reject(f"MCTP header {header:#010x}: nothing follows it")
            return None
        self._collected += content
        if not header & END:
            self._next_sequence = (_sequence(header) + 1) & SEQUENCE_MASK
            return None
        message = tuple(self._collected)
        self.clear()
        self.requests.append(message)
        return self._answer(message)

    def clear(self) -> None:
        self._collected = []
        self._next_sequence = None

    def _continues(self, header: int) -> bool:
        if header & FIXED_BITS:
            return self._reject(f"MCTP header {header:#010x}: version, endpoints or tag are not 0")
        if header & START:
            if self._next_sequence is not None:
                self._complain(f"MCTP header {header:#010x} starts a message inside another")
            self.clear()
            if _sequence(header):
                return self._reject(f"MCTP header {header:#010x}: the first sequence is not 0")
        elif self._next_sequence is None:
            return self._reject(f"MCTP header {header:#010x} continues no message")
        elif _sequence(header) != self._next_sequence:
            return self._reject(f"MCTP header {header:#010x}: not sequence {self._next_sequence}")
        return True

    def _reject(self, why: str) -> bool:
        self._complain(why)
        self.clear()
        return False

    def _answer(self, message: tuple[int, ...]) -> tuple[int, ...] | None:
        header, *payload = message
        if header & 0xFFFFFF != VENDOR_MESSAGE:
            self._complain(f"message header {header:#010x} is not of NVIDIA's vendor-defined type")
            return None
        data: tuple[int, ...] = ()
        code = 0
        try:
            data = self._carry_out(header >> NVDM_SHIFT, payload)
        except RefusedError as error:
            code = error.code
            if error.is_mistake:
                self._complain(str(error))
        if self._faults.answer_instead:
            return self._faults.answer_instead
        self._task_id += 1
        answered = (START | END, RESPONSE << NVDM_SHIFT | VENDOR_MESSAGE, self._task_id)
        return (*answered, header >> NVDM_SHIFT, code, *data)

    def _carry_out(self, nvdm_type: int, payload: Sequence[int]) -> tuple[int, ...]:
        if nvdm_type != PRC:
            raise RefusedError(UNKNOWN_TYPE, f"NVDM type {nvdm_type:#x} is not PRC")
        if not payload:
            raise RefusedError(BAD_LENGTH, "a PRC request without a sub-command")
        word = payload[0]
        command, argument, knob = word & 0xFF, word >> 8 & 0xFF, word >> 16
        if command not in LENGTHS or argument != PRC_ARGUMENT:
            raise RefusedError(UNKNOWN_COMMAND, f"PRC word {word:#010x} is no known sub-command")
        if len(payload) != LENGTHS[command]:
            raise RefusedError(BAD_LENGTH, f"PRC word {word:#010x} in a payload of {len(payload)} words")
        for error in self._faults.fsp_errors:
            if error.applies_to(knob, is_write=command == WRITE_KNOB):
                error.count()
                raise RefusedError(error.code, "on command", is_mistake=False)
        if command == READ_KNOB:
            return (self._rubbish << 16 | self._knobs.read(knob),)
        self._write(knob, payload[1])
        return ()

    def _write(self, knob: int, value: int) -> None:
        self._knobs.write(knob, value)
        self.knob_writes.append((knob, value))
        # The firmware accepts both, but the order of section 4's table passes through neither.
        staged = self._knobs.staged
        makes_invalid = (knob, bool(value)) in {(CC_DEVTOOLS, True), (CC, False)}
        if makes_invalid and staged.cc_bits == INVALID_CC_BITS:
            self._complain(f"knob {knob} := {value} leaves devtools staged without CC")
        if value and knob in {CC_DEVTOOLS, CC, PPCIE} and staged.is_ppcie and staged.cc_bits:
            self._complain(f"knob {knob} := {value} leaves PPCIE and CC staged together")


def _sequence(header: int) -> int:
    return header >> SEQUENCE_SHIFT & SEQUENCE_MASK
