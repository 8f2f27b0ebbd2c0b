"""What an administrator is told in Kubernetes Events: each thing when it begins, each failed attempt by its number."""

import logging

from cc_manager.cluster.eviction import Tell
from cc_manager.event_reasons import (
    DEVICE_LOST,
    DRIFTED,
    MODE_CHANGED,
    MODE_DOUBTFUL,
    MODE_FAILED,
    MODE_WAITS,
    OPERANDS_STUCK,
)
from nodelib.event_reasons import EventReason

log = logging.getLogger(__name__)


class Notices:
    """Posts what is new, by *tell*. Remembers only what was said, so a restart may say it once more."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._said: dict[EventReason, str] = {}
        self._doubt = ""

    def changed(self, message: str) -> None:
        self._tell(MODE_CHANGED, message)

    def failed(self, message: str, attempt: int) -> None:
        """Every attempt is told: an administrator who touched the label must see that something happened."""
        self._tell(MODE_FAILED, f"attempt {attempt}: {message}")

    def waits(self, message: str) -> None:
        self._once(MODE_WAITS, message)

    def doubtful(self, message: str) -> None:
        """Told when it begins; no message: there is no doubt."""
        if message and message != self._doubt:
            log.warning("%s", message)
            self._tell(MODE_DOUBTFUL, message)
        self._doubt = message

    def drifted(self, message: str) -> None:
        self._once(DRIFTED, message)

    def lost(self, message: str) -> None:
        self._once(DEVICE_LOST, message)

    def stuck(self, message: str) -> None:
        self._once(OPERANDS_STUCK, message)

    def settled(self) -> None:
        """All is as it should be: what comes now is new."""
        self._said.clear()

    def _once(self, reason: EventReason, message: str) -> None:
        if self._said.get(reason) != message:
            self._said[reason] = message
            self._tell(reason, message)
