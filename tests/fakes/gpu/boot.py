"""From a reset to boot complete: what the device can do meanwhile, and what it shows.

Facts, sections 2 and 7.
"""

from dataclasses import dataclass
from enum import Enum, auto

from tests.fakes.gpu.faults import Faults


class Phase(Enum):
    FIREWALL = auto()
    """BAR0 reads all ones."""
    BUS_ERRORS = auto()
    """Every register reads 0xbadf...., which means "not yet"."""
    BOOTING = auto()
    """Registers answer; boot is not complete, and the mode reads "off"."""
    UP = auto()


@dataclass(frozen=True, slots=True)
class BootTimes:
    """In seconds since the reset: when each phase ends."""

    firewall: float
    bus_errors: float
    boot: float


class Boot:
    def __init__(self, times: BootTimes, faults: Faults, *, has_firewall: bool) -> None:
        self._times = times
        self._faults = faults
        self._has_firewall = has_firewall
        self._began: float | None = None

    def begin(self, now: float) -> None:
        self._began = now

    def finish(self) -> None:
        self._began = None

    @property
    def is_going_on(self) -> bool:
        return self._began is not None

    def phase(self, now: float) -> Phase:
        if self._began is None:
            return Phase.UP
        # Compared as the sum that a clock was told to call back at: a difference may round to just before it.
        if self._has_firewall:
            if self._faults.firewall_stays_up or now < self._began + self._times.firewall:
                return Phase.FIREWALL
            if self._faults.bus_errors_never_end or now < self._began + self._times.bus_errors:
                return Phase.BUS_ERRORS
        if self._faults.boot_never_completes or now < self._began + self._times.boot:
            return Phase.BOOTING
        return Phase.UP
