"""What device-plugin was told to do, checked."""

import math
from dataclasses import dataclass, field
from enum import Enum

from nodelib.errors import InvalidValue
from nodelib.vfio import Naming

KUBELET_SOCKET = "/var/lib/kubelet/device-plugins/kubelet.sock"
"""Where the kubelet takes registrations; our own sockets, one a resource, stand beside it."""
HEALTH_INTERVAL_S = 5.0
"""A GPU that falls off the bus may send no event at all; this is how long it can go unnoticed."""
BUSY_WAIT_S = 2.0
"""Pods are admitted one after the other, so every pod of the node waits with the one that asked."""
STREAM_WAIT_S = 5.0
"""A kubelet opens its stream right after its yes; after so long it will not, and is asked again."""


class CdiMode(Enum):
    """Who keeps the CDI specs, and whether a device may be advertised without one."""

    WRITE = "write"  # we do: for installations without kata-manager
    REQUIRE = "require"  # kata-manager does; a device without a spec is held back
    OFF = "off"  # nobody needs them


class WhenHeld(Enum):
    """What Allocate answers for a device that a virtual machine still holds after the wait."""

    ALLOW = "allow"  # the device, with a warning: VFIO itself excludes, and the kubelet retries the sandbox
    FAIL = "fail"  # an error, which ends the pod


@dataclass(frozen=True, slots=True)
class Settings:
    """What is advertised under which names, and how patiently it is given away."""

    naming: Naming = field(default_factory=Naming)
    cdi: CdiMode = CdiMode.WRITE
    kubelet_socket: str = KUBELET_SOCKET
    """A path of the host; our own sockets are put beside it."""
    health_interval_s: float = HEALTH_INTERVAL_S
    busy_wait_s: float = BUSY_WAIT_S
    when_held: WhenHeld = WhenHeld.ALLOW
    stream_wait_s: float = STREAM_WAIT_S

    def __post_init__(self) -> None:
        if not self.kubelet_socket.startswith("/") or self.kubelet_socket.endswith("/"):
            raise InvalidValue(
                f"--kubelet-socket {self.kubelet_socket!r} must be a path of the host from its root, "
                f"as {KUBELET_SOCKET} is"
            )
        for flag, seconds in (("--health-interval", self.health_interval_s), ("--busy-wait", self.busy_wait_s)):
            if not math.isfinite(seconds):  # a range check alone lets `nan` through
                raise InvalidValue(f"{flag} {seconds} is not a number of seconds")
