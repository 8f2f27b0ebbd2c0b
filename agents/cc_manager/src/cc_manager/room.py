"""Room for a change of mode: who uses a device that must change, and the wait until nobody does."""

from dataclasses import replace

from cc_manager.clock import Clock
from cc_manager.cluster.eviction import Eviction
from cc_manager.cluster.holders import Busy, Holders
from cc_manager.look import Look
from cc_manager.mode import CcMode
from cc_manager.setter import ModeSetter
from cc_manager.settings import WhenBusy
from nodelib.inventory import is_in_use

_POLL_S = 2.0
"""Between two looks at who uses a device: nothing tells when a VM closes one, and the kubelet is asked by a process."""


class Room:
    """Looks for those in the way of a change, and evicts them where that is the policy."""

    def __init__(self, setter: ModeSetter, holders: Holders, eviction: Eviction, clock: Clock) -> None:
        self._setter = setter
        self._holders = holders
        self._eviction = eviction
        self._clock = clock

    @property
    def evicts(self) -> bool:
        return self._setter.settings.when_busy is WhenBusy.EVICT

    def in_the_way(self, mode: CcMode, look: Look) -> Busy:
        """Who uses, or was given, a device that must change for *mode*. Raises PodResourcesError or ApiError."""
        changing = look.not_in(mode)
        inventory = self._setter.node.scan()
        in_use = (one.address for one in inventory.devices if one.address in changing and is_in_use(inventory, one))
        return replace(self._holders.of(changing, look.observations, inventory), addresses=tuple(in_use))

    def wait(self, mode: CcMode, look: Look, timeout_s: float) -> Busy:
        """Wait until nobody is in the way, evicting who can be; who is there at the end."""
        ends_at = self._clock.monotonic() + timeout_s
        while busy := self.in_the_way(mode, look):
            if self.evicts:
                self._eviction.ask(busy.pods, busy.doubtful)
            is_over = self._clock.monotonic() >= ends_at or self._eviction.is_over
            if is_over or self._setter.wakeups.stop.is_set():
                break
            self._clock.sleep(_POLL_S)
        return busy

    def why_not(self, busy: Busy) -> tuple[tuple[str, ...], bool]:
        """Why there is no room, and whether that is to be waited for."""
        reasons = (str(busy), *self._eviction.obstacles)
        match self._setter.settings.when_busy:
            case WhenBusy.WAIT:
                return reasons, True
            case WhenBusy.FAIL:
                return reasons, False
            case WhenBusy.EVICT if self._eviction.is_over:
                self._eviction.end()  # the next attempt has a deadline of its own
                return (f"eviction did not make room in time: {'; '.join(reasons)}",), False
            case WhenBusy.EVICT:
                return reasons, True

    def is_made(self) -> None:
        """Nobody is in the way any more, or nobody needs to go."""
        self._eviction.end()
