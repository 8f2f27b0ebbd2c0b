"""One emulated GPU or NVSwitch: BAR0 with its registers, power, resets and boots.

Time passes only when somebody looks: what was due by then is done before each access.
"""

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn

from tests.fakes.gpu.boot import Boot, BootTimes, Phase
from tests.fakes.gpu.chips import Carrier, Chip
from tests.fakes.gpu.config_words import config_words
from tests.fakes.gpu.emem import EmemTransport
from tests.fakes.gpu.faults import ALL_ONES, Faults
from tests.fakes.gpu.fsp import EMEM_RUBBISH, OTHER_RUBBISH, Fsp
from tests.fakes.gpu.knobs import ActiveMode, Knobs
from tests.fakes.gpu.mnoc import MnocTransport
from tests.fakes.gpu.transport import BUS_ERROR, Latencies, NoTransport, Transport
from tests.fakes.gpu.words import Words

PowerState = Literal["D0", "D3hot"]

BOOT_COMPLETE, STILL_BOOTING = 0xFF, 0x03
NOT_YET = 0xBADF5040

CallAt = Callable[[float, Callable[[], None]], None]
"""Calls the function when the clock shows the time."""


def call_at_real_time(due: float, do: Callable[[], None]) -> None:
    """Of a device that lives in `time.monotonic`."""
    timer = threading.Timer(max(0.0, due - time.monotonic()), do)
    timer.daemon = True
    timer.start()


class EmulatedDevice:
    """`knobs`: initial values, 0 and "allowed in band" (1) where none is given.

    The times, in seconds: reset to the firewall's end, to the end of 0xbadf.... and to boot complete (the first two
    only where the chip has a firewall; by default a fifth and a half of the third); last word or bell to the packet
    taken, to the answer; announcement to credits. A *clock* that is not the real one brings its *call_at*, for what
    is seen of a device without an access.
    """

    def __init__(
        self,
        chip: Chip,
        *,
        knobs: Mapping[int, int] | None = None,
        has_ppcie: bool = True,
        has_dvsec: bool = True,
        firewall_time_s: float | None = None,
        bus_error_time_s: float | None = None,
        boot_time_s: float = 0.05,
        take_time_s: float = 0.0005,
        answer_time_s: float = 0.002,
        credit_time_s: float = 0.0001,
        clock: Callable[[], float] = time.monotonic,
        call_at: CallAt = call_at_real_time,
        faults: Faults | None = None,
    ) -> None:
        self.chip = chip
        self.complaints: list[str] = []
        self.resets = 0
        self.accesses = 0
        self.power_state: PowerState = "D0"
        self.memory_decoding = True
        self.gone = False
        self._was_seen_asleep = False
        self.at_reset: dict[int, Faults] = {}
        """What `faults` becomes when this reset begins; the first is 1 (see `resets`)."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when what is seen without an access has changed: `gone` or `config_words`."""
        self._faults = Faults() if faults is None else faults
        self._knobs = Knobs(knobs or {}, has_ppcie=has_ppcie and chip.value.ppcie_bit is not None)
        self._active = self._knobs.staged
        self._decouples = self._knobs.decouples
        self._has_dvsec = has_dvsec
        self._times = BootTimes(
            boot_time_s / 5 if firewall_time_s is None else firewall_time_s,
            boot_time_s / 2 if bus_error_time_s is None else bus_error_time_s,
            boot_time_s,
        )
        self._boot = Boot(self._times, self._faults, has_firewall=chip.value.has_firewall)
        self._clock = clock
        self._call_at = call_at
        self._lock = threading.Lock()
        self._set_up: dict[int, int] = {}
        rubbish = EMEM_RUBBISH if chip.value.carrier is Carrier.EMEM else OTHER_RUBBISH
        self._fsp = Fsp(self._knobs, self._faults, self.complaints.append, rubbish)
        self._transport = self._make_transport(Latencies(take_time_s, answer_time_s, credit_time_s))
        self._shown = self._seen_without_access

    def _make_transport(self, latencies: Latencies) -> Transport:
        match self.chip.value.carrier:
            case Carrier.EMEM:
                return EmemTransport(self._fsp, self._faults, self.complaints.append, latencies)
            case Carrier.MNOC:
                return MnocTransport(self._fsp, self._faults, self.complaints.append, latencies)
            case None:
                return NoTransport()

    @property
    def bar0_bytes(self) -> int:
        return self.chip.value.bar0_bytes

    def config_words(self) -> dict[int, int]:
        """What the device puts into its configuration space now: dwords by offset."""
        is_firewalled, _ = self._seen_without_access
        return config_words(
            self.chip, has_dvsec=self._has_dvsec, is_firewalled=is_firewalled, fault_code=self._faults.fault_code
        )

    @property
    def _seen_without_access(self) -> tuple[bool, bool]:
        has_firewall = self.chip.value.has_firewall
        return has_firewall and self._boot.phase(self._clock()) is Phase.FIREWALL, self.gone

    def look(self) -> None:
        """Let what is due be seen."""
        if self._shown != (shown := self._seen_without_access):
            self._shown = shown
            self.on_change()

    @property
    def faults(self) -> Faults:
        """Set its fields; the object itself stays."""
        return self._faults

    @property
    def knobs(self) -> dict[int, int]:
        """The staged values as the baseboard controller sees them, who may change any of them."""
        return self._knobs.values

    @property
    def active(self) -> ActiveMode:
        """The mode since the last reset, whether or not a register shows it now."""
        return self._active

    @property
    def requests(self) -> list[tuple[int, ...]]:
        """Every message that reached the firmware whole, without its MCTP headers."""
        return self._fsp.requests

    @property
    def knob_writes(self) -> list[tuple[int, int]]:
        """Knob and value of every write that was carried out, in order."""
        return self._fsp.knob_writes

    @property
    def bus_set_up(self) -> bool:
        """The reference client's internal bus set-up was done since the last reset."""
        registers = self.chip.value.bus_set_up
        return bool(registers) and self._set_up == dict(registers)

    def bar0(self) -> Words:
        """For one client: who maps BAR0 anew does not answer for what others did before."""
        with self._lock:
            self._transport.meet_client()
        return Words(self)

    def reset(self) -> None:
        """What a function-level or bus reset does to the device; it returns while the boot goes on."""
        with self._lock:
            if self.gone:
                return
            self.resets += 1
            if (faults := self.at_reset.get(self.resets)) is not None:
                for field in dataclasses.fields(Faults):
                    setattr(self._faults, field.name, getattr(faults, field.name))
            self.gone = self._faults.gone_at_reset
            if not self._faults.keeps_old_mode:
                self._active = self._knobs.staged
                self._decouples = self._knobs.decouples
            now = self._clock()
            self._boot.begin(now)
            self._set_up.clear()
            self._clear_fsp()
        self.look()
        if self.chip.value.has_firewall:
            self._call_at(now + self._times.firewall, self.look)

    def access(self, offset: int, value: int | None = None) -> int:
        """One 32-bit read, or a write of the value, as BAR0 sees it."""
        with self._lock:
            answer = self._access(offset, value)
        self.look()
        return answer

    def _access(self, offset: int, value: int | None) -> int:
        self.accesses += 1
        if self._faults.gone_at_access is not None:
            self.gone = self.gone or self.accesses >= self._faults.gone_at_access
        if self.gone or not self.memory_decoding:
            return ALL_ONES
        if self.power_state != "D0":
            self._was_seen_asleep = True
            return self._faults.sleeping_reads
        if self._was_seen_asleep:
            self._was_seen_asleep = False
            self._transport.wake_up()
        now = self._clock()
        phase = self._boot.phase(now)
        self._settle(now, phase)
        if phase in {Phase.FIREWALL, Phase.BUS_ERRORS}:
            if value is not None:
                self.complaints.append(f"{offset:#x} := {value:#x} before the device lets anybody write")
            return ALL_ONES if phase is Phase.FIREWALL else NOT_YET
        if value is None:
            return self._read(offset)
        self._write(offset, value, now)
        return 0

    def complain(self, what: str) -> NoReturn:
        """An access that no right client makes, and that real hardware may punish silently."""
        self.complaints.append(what)
        raise AssertionError(what)

    @property
    def _is_broken(self) -> bool:
        """In recovery mode, in a security fault, or not the chip that it should be."""
        return self._faults.is_in_recovery or self._faults.identity is not None

    def _settle(self, now: float, phase: Phase) -> None:
        answers_early = self._faults.fsp_answers_while_booting
        if self._boot.is_going_on and phase is Phase.UP and not self._is_broken:
            self._boot.finish()
            if not answers_early:
                # The firmware starts with empty queues: nothing put into them earlier lasts.
                self._clear_fsp()
        is_there = not self._boot.is_going_on or (answers_early and phase is Phase.BOOTING)
        self._transport.settle(now, fsp_listens=is_there and not self._is_broken)

    def _clear_fsp(self) -> None:
        self._fsp.clear()
        self._transport.clear()

    def _read(self, offset: int) -> int:
        if self._transport.owns(offset):
            return self._transport.read(offset)
        registers = self.chip.value
        is_up = not self._boot.is_going_on and not self._is_broken
        identity = self._faults.identity
        known = {
            0: registers.identity if identity is None else identity,
            registers.boot_complete: BOOT_COMPLETE if is_up else STILL_BOOTING,
            # "The mode register reads 0 until boot is complete" (facts, section 7).
            registers.mode: self._mode_word() if is_up else 0,
            registers.recovery: registers.in_recovery if self._faults.is_in_recovery else registers.recovered,
        }
        if offset in known:
            return known[offset]
        if offset in dict(registers.bus_set_up):
            return self._set_up.get(offset, 0)
        self.complaints.append(f"read of {offset:#x}, which is no register")
        return BUS_ERROR

    def _mode_word(self) -> int:
        registers = self.chip.value
        word = self._active.cc_bits if registers.has_cc_bits else 0
        if registers.ppcie_bit is not None:
            word |= self._active.is_ppcie << registers.ppcie_bit
        if registers.decoupler_bit is not None:
            # When it is active the facts do not say. Here it is in every mode with CC, and where its knob asks for
            # it, so that a client that compares the whole word is found out.
            word |= (self._decouples or bool(word)) << registers.decoupler_bit
        return word

    def _write(self, offset: int, value: int, now: float) -> None:
        set_up = dict(self.chip.value.bus_set_up)
        if self._is_broken:
            # "In both cases report and write nothing" (facts, section 5).
            self.complaints.append(f"{offset:#x} := {value:#x} on a device that is not working")
        elif self._transport.owns(offset):
            self._transport.write(offset, value, now)
        elif offset not in set_up:
            self.complaints.append(f"{offset:#x} := {value:#x}, which is no register to write")
        else:
            if value != set_up[offset]:
                self.complaints.append(f"{offset:#x} := {value:#x} is not the bus set-up")
            self._set_up[offset] = value
