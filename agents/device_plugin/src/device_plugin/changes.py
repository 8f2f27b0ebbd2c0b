"""What changed about devices from one look to the next, and what an administrator is told of it. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from device_plugin.event_reasons import HEALTHY, UNHEALTHY
from device_plugin.inventory import label
from nodelib.event_reasons import EventReason
from nodelib.output import grouped
from nodelib.vfio import AssignableDevice


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A device whose health, or the reason for it, is not what it was."""

    device: AssignableDevice

    @property
    def text(self) -> str:
        """What is said of the device, without its name."""
        reasons = "; ".join(str(problem) for problem in self.device.problems)
        return f"unhealthy: {reasons}" if reasons else "healthy again"

    def __str__(self) -> str:
        return f"{label(self.device)} is {self.text}"


def health_changes(before: Iterable[AssignableDevice], after: Iterable[AssignableDevice]) -> tuple[HealthChange, ...]:
    """What changed from one look to the next; a device that is new and healthy is none."""
    known = {(device.resource, device.id): device.problems for device in before}
    return tuple(
        HealthChange(device) for device in after if device.problems != known.get((device.resource, device.id), ())
    )


def events_of(changes: Iterable[HealthChange]) -> tuple[tuple[EventReason, str], ...]:
    """The Kubernetes Events for *changes*: one for all devices with the same reason, the log has each."""
    changes = tuple(changes)
    return tuple(
        (reason, text)
        for reason, is_healthy in ((UNHEALTHY, False), (HEALTHY, True))
        for text in grouped((label(c.device), c.text) for c in changes if c.device.is_healthy is is_healthy)
    )
