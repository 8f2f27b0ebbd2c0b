"""One emulated GPU or NVSwitch: BAR0 with its registers, power, resets and boots.

Time passes only when somebody looks: what was due by then is done before each access.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn

from tests.fakes.gpu.chips import Chip
from tests.fakes.gpu.emem import BUS_ERROR, EmemTransport
from tests.fakes.gpu.faults import ALL_ONES, Faults
from tests.fakes.gpu.fsp import Fsp
from tests.fakes.gpu.knobs import ActiveMode, Knobs

PowerState = Literal["D0", "D3hot"]

BOOT_COMPLETE, STILL_BOOTING = 0xFF, 0x03
RECOVERY_MODE = 1 << 30


class EmulatedDevice:
    """`knobs`: initial values, 0 and "allowed in band" (1) where none is given.

    The three times: reset to boot complete, bell to an empty command queue, bell to the answer.
    """

    def __init__(
        self,
        chip: Chip,
        *,
        knobs: Mapping[int, int] | None = None,
        has_ppcie: bool = True,
        boot_time_s: float = 0.05,
        take_time_s: float = 0.0005,
        answer_time_s: float = 0.002,
        clock: Callable[[], float] = time.monotonic,
        faults: Faults | None = None,
    ) -> None:
        self.chip = chip
        self.complaints: list[str] = []
        self.resets = 0
        self.accesses = 0
        self.power_state: PowerState = "D0"
        self.memory_decoding = True
        self.gone = False
        self._faults = Faults() if faults is None else faults
        self._knobs = Knobs(knobs or {}, has_ppcie=has_ppcie)
        self._active = self._knobs.staged
        self._boot_time_s = boot_time_s
        self._boot_ends: float | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._set_up: dict[int, int] = {}
        self._fsp = Fsp(self._knobs, self._faults, self.complaints.append)
        self._transport = EmemTransport(
            self._fsp,
            self._faults,
            self.complaints.append,
            take_time_s=take_time_s,
            answer_time_s=answer_time_s,
        )

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

    def bar0(self) -> "Words":
        return Words(self)

    def reset(self) -> None:
        """What a function-level or bus reset does to the device; it returns while the boot goes on."""
        with self._lock:
            if self.gone:
                return
            self.resets += 1
            self.gone = self._faults.gone_at_reset
            if not self._faults.keeps_old_mode:
                self._active = self._knobs.staged
            self._boot_ends = self._clock() + self._boot_time_s
            self._set_up.clear()
            self._clear_fsp()

    def access(self, offset: int, value: int | None = None) -> int:
        """One 32-bit read, or a write of the value, as BAR0 sees it."""
        with self._lock:
            self.accesses += 1
            if self._faults.gone_at_access is not None:
                self.gone = self.gone or self.accesses >= self._faults.gone_at_access
            if self.gone or not self.memory_decoding:
                return ALL_ONES
            if self.power_state != "D0":
                return self._faults.sleeping_reads
            now = self._clock()
            self._settle(now)
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

    @property
    def _fsp_listens(self) -> bool:
        if self._is_broken:
            return False
        return self._boot_ends is None or self._faults.fsp_answers_while_booting

    def _settle(self, now: float) -> None:
        never = self._faults.boot_never_completes or self._is_broken
        if self._boot_ends is not None and now >= self._boot_ends and not never:
            self._boot_ends = None
            if not self._faults.fsp_answers_while_booting:
                # The firmware starts with empty queues: nothing put into them earlier lasts.
                self._clear_fsp()
        if self._fsp_listens:
            self._transport.settle(now)

    def _clear_fsp(self) -> None:
        self._fsp.clear()
        self._transport.clear()

    def _read(self, offset: int) -> int:
        if self._transport.owns(offset):
            return self._transport.read(offset)
        registers = self.chip.value
        is_up = self._boot_ends is None and not self._is_broken
        identity = self._faults.identity
        known = {
            0: registers.identity if identity is None else identity,
            registers.boot_complete: BOOT_COMPLETE if is_up else STILL_BOOTING,
            # "The mode register reads 0 until boot is complete" (facts, section 7).
            registers.mode: self._mode_word() if is_up else 0,
            registers.recovery: RECOVERY_MODE if self._faults.is_in_recovery else 0,
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
        return word

    def _write(self, offset: int, value: int, now: float) -> None:
        set_up = dict(self.chip.value.bus_set_up)
        if self._is_broken:
            # "In both cases report and write nothing" (facts, section 5).
            self.complaints.append(f"{offset:#x} := {value:#x} on a device that is not working")
        elif self._transport.owns(offset):
            self._transport.write(offset, value, now, fsp_listens=self._fsp_listens)
        elif offset not in set_up:
            self.complaints.append(f"{offset:#x} := {value:#x}, which is no register to write")
        else:
            if value != set_up[offset]:
                self.complaints.append(f"{offset:#x} := {value:#x} is not the bus set-up")
            self._set_up[offset] = value


class Words:
    """BAR0 as `memoryview(mmap).cast("I")` gives it, without what corrupts real registers.

    Only `words[offset // 4]` and `words[offset // 4] = value`. A slice, or a loop over the view, copies
    bytes, and an access of another size than 32 bits corrupts registers that move on by themselves.
    """

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device

    def __getitem__(self, index: int) -> int:
        return self._device.access(self._offset(index))

    def __setitem__(self, index: int, value: int) -> None:
        offset = self._offset(index)
        if not _is_number(value) or not 0 <= value <= ALL_ONES:
            self._device.complain(f"{offset:#x} := {value!r}, which is no 32-bit word")
        self._device.access(offset, int(value))

    def __iter__(self) -> NoReturn:
        self._device.complain("BAR0 read as a whole")

    def _offset(self, index: int) -> int:
        if not _is_number(index):
            self._device.complain(f"BAR0 accessed by {index!r}, which is no word index")
        if not 0 <= index < self._device.chip.value.bar0_bytes // 4:
            self._device.complain(f"BAR0 has no word {index:#x}")
        return index * 4


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
