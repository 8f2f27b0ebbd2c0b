"""What device-plugin was told to do, checked."""

from collections.abc import Mapping
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


class DeviceListStrategy(Enum):
    """How the container runtime is told of the devices."""

    DEVICE_SPECS = "device-specs"  # their nodes
    CDI_CRI = "cdi-cri"  # their nodes and their CDI names, in the field that Kubernetes 1.31 and later pass on


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
    strategy: DeviceListStrategy = DeviceListStrategy.DEVICE_SPECS
    pass_addresses: bool = False
    """Tell containers the PCI addresses of their devices, as KubeVirt wants to know them."""

    def __post_init__(self) -> None:
        if not self.kubelet_socket.startswith("/") or self.kubelet_socket.endswith("/"):
            raise InvalidValue(
                f"--kubelet-socket {self.kubelet_socket!r} must be a path of the host from its root, "
                f"as {KUBELET_SOCKET} is"
            )
        if self.strategy is DeviceListStrategy.CDI_CRI and self.cdi is CdiMode.OFF:
            raise InvalidValue(
                "--device-list-strategy cdi-cri gives out CDI names, which with --cdi off nobody makes sure of: "
                "use --cdi write or require"
            )


_OF_OTHER_PLUGINS = ("ENABLE_GFD", "GFD_IMAGE", "POD_NAMESPACE", "POD_SERVICE_ACCOUNT")
"""Variables that manifests of existing device plugins set; all are about starting GPU Feature Discovery."""


def variables_without_meaning(environment: Mapping[str, str]) -> str:
    """What to say of *environment*, that of an existing manifest; nothing if nobody can expect anything of it."""
    ignored = [name for name in _OF_OTHER_PLUGINS if environment.get(name)]
    if environment.get("ENABLE_GFD", "").strip().lower() in ("1", "t", "true", "yes", "on"):
        return (
            f"ENABLE_GFD={environment['ENABLE_GFD']} has no effect: this device plugin does not start GPU Feature "
            "Discovery; deploy it by itself if its labels are wanted"
        )
    return f"set, and without meaning for this device plugin: {', '.join(ignored)}" if ignored else ""
