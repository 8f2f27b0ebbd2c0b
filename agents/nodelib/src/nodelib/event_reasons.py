"""What an agent may say in a Kubernetes Event: the reasons as values, declared once in each agent's `event_reasons`.

docs/operations.md lists them from there, so a reason that is not declared cannot be posted.
"""

from dataclasses import dataclass
from enum import Enum


class EventType(Enum):
    """What the API server takes as an Event's type."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class EventReason:
    """One kind of Event: what `kubectl describe node` shows under Type and Reason."""

    name: str
    """One word in camel case; stable, for alerts and scripts."""
    meaning: str
    """One sentence for an administrator: when it is posted."""
    type: EventType = EventType.NORMAL
