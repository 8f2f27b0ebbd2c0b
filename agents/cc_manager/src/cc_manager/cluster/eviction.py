"""Pods that are in the way of a change of mode are asked to go, through the Eviction API, until a deadline."""

import logging
from collections.abc import Callable, Collection, Iterable

from cc_manager.clock import Clock
from cc_manager.cluster.operand_pods import Pod
from cc_manager.cluster.pods import KubePods
from cc_manager.event_reasons import POD_EVICTED
from nodelib.event_reasons import EventReason
from nodelib.kube import ApiError

log = logging.getLogger(__name__)

_DOUBTFUL = "pod {} has a device whose id says nothing here, so it is waited for and not evicted"

Tell = Callable[[EventReason, str], None]
"""Given what an administrator must know."""


class Eviction:
    """Evicts over as many rounds as it takes; a new process begins its deadline anew."""

    def __init__(self, pods: KubePods, timeout_s: float, clock: Clock, tell: Tell) -> None:
        self._pods = pods
        self._timeout_s = timeout_s
        self._clock = clock
        self._tell = tell
        self._ends_at: float | None = None
        self._is_forbidden = False
        self.obstacles: tuple[str, ...] = ()
        """Why pods that were asked do not go, as of the last time that they were asked."""

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed; never where evicting is forbidden, then we wait as without it."""
        return self._ends_at is not None and not self._is_forbidden and self._clock.monotonic() >= self._ends_at

    def end(self) -> None:
        """Nobody is in the way any more, or the deadline has been told: the next eviction has its own."""
        self._ends_at, self.obstacles = None, ()

    def ask(self, pods: Iterable[Pod], doubtful: Collection[Pod] = ()) -> None:
        """Ask each of *pods* to go; asking again does no harm, and a budget may allow it by then. Raises ApiError.

        The *doubtful* ones are not asked: they may not be in the way at all.
        """
        if self._ends_at is None:
            self._ends_at = self._clock.monotonic() + self._timeout_s
        if not self._is_forbidden:
            reasons = (_DOUBTFUL.format(pod) if pod in doubtful else self._ask(pod) for pod in pods)
            self.obstacles = tuple(reason for reason in reasons if reason)

    def _ask(self, pod: Pod) -> str:
        if not pod.uid:
            return f"the API server does not confirm pod {pod}, so it is not evicted"
        try:
            reason = self._pods.evict(pod)
        except ApiError as error:
            # Only a missing right comes as an error: see KubePods.evict.
            self._is_forbidden = True
            log.warning("%s; no pod is evicted, a change of mode waits instead", error)
            return str(error)
        if not reason:
            self._tell(POD_EVICTED, f"asked pod {pod} to go: a change of mode needs the devices that it holds")
        return reason
