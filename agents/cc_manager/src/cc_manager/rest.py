"""What failed attempts leave behind, so that they are not made at others' expense again and again.

After one for which operands were paused there is a wait, for each restarts their pods. A device whose firmware forbids
the mode is remembered, so that no pod is evicted only to ask it again.
"""

from collections.abc import Collection, Iterable

from cc_manager.apply import Failure
from cc_manager.clock import Clock
from cc_manager.mode import CcMode
from nodelib.pci import PciAddress

FIRST_S = 60.0
LONGEST_S = 900.0


class Rest:
    """Grows from attempt to attempt; ended by a touched label, which is somebody's word that it may go better now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._mode: CcMode | None = None
        self._pause_s = 0.0
        self._ends_at = 0.0
        self._refused_mode: CcMode | None = None
        self._refusals: tuple[Failure, ...] = ()

    def begin(self, mode: CcMode) -> None:
        """An attempt to reach *mode* failed."""
        again = mode is self._mode
        self._mode = mode
        self._pause_s = min(LONGEST_S, self._pause_s * 2) if again and self._pause_s else FIRST_S
        self._ends_at = self._clock.monotonic() + self._pause_s

    def is_on(self, mode: CcMode) -> bool:
        """Whether an attempt to reach *mode* is to wait; another mode is another matter."""
        return mode is self._mode and self._clock.monotonic() < self._ends_at

    def remember(self, mode: CcMode, failures: Iterable[Failure], unasked: Collection[PciAddress]) -> None:
        """What the devices answered that were asked about *mode*; of those *unasked* the earlier answer holds."""
        earlier = self.refusals(mode, unasked)
        self._refused_mode = mode
        self._refusals = (*earlier, *(one for one in failures if one.is_final))

    def refusals(self, mode: CcMode, addresses: Collection[PciAddress]) -> tuple[Failure, ...]:
        """Which of the devices at *addresses* are known to refuse *mode*, whenever they are asked."""
        if mode is not self._refused_mode:
            return ()
        return tuple(one for one in self._refusals if one.address in addresses)

    def end(self) -> None:
        """The next attempt may begin at once, and ask again. May be called from any thread."""
        self._ends_at = 0.0
        self._refusals = ()

    def forget(self) -> None:
        """All is well: the next failure is a first one."""
        self._mode, self._pause_s = None, 0.0
        self._refusals = ()
