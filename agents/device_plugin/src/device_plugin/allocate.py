"""Which devices a request of the kubelet means, and what a container gets for them. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from device_plugin.inventory import Devices, label
from device_plugin.settings import DeviceListStrategy, WhenHeld
from nodelib.errors import NodeError
from nodelib.event_reasons import EventReason
from nodelib.vfio import AssignableDevice

PERMISSIONS = "rw"
"""What VFIO needs of a device node; nobody in the container has to create one (`m`)."""
_SHOWN = 64
"""How much of an id that was sent to us an error repeats: a status has to fit into 8 KiB of trailers."""


def tell_nobody(_reason: EventReason, _message: str) -> None:
    """For whoever has nobody to tell."""


class InvalidRequest(NodeError):
    """A request that no state of the node could satisfy."""


class DeviceUnavailable(NodeError):
    """A device that exists and cannot be given away now."""


@dataclass(frozen=True, slots=True)
class AllocatePolicy:
    """How to find out that a virtual machine still has a device open, what to do about it, and the form of answers."""

    is_held: Callable[[AssignableDevice], bool]
    busy_wait_s: float
    when_held: WhenHeld
    strategy: DeviceListStrategy = DeviceListStrategy.DEVICE_SPECS
    pass_addresses: bool = False
    tell: Callable[[EventReason, str], None] = tell_nobody
    """Posts a Kubernetes Event; it must not wait."""


@dataclass(frozen=True, slots=True)
class Given:
    """What one container gets."""

    nodes: tuple[str, ...]
    """Host paths, each once: devices of the legacy interface share /dev/vfio/vfio."""
    cdi_names: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def give(devices: Devices, policy: AllocatePolicy) -> Given:
    """What a container gets for *devices*.

    The nodes also where CDI names are given: the spec of a legacy device leaves /dev/vfio/vfio out, which Kata must not
    see and every other user of the device needs.
    """
    with_names = policy.strategy is DeviceListStrategy.CDI_CRI
    return Given(
        nodes=tuple(dict.fromkeys(node for device in devices for node in device.allocate_nodes)),
        cdi_names=tuple(f"{device.resource.cdi_kind}={device.id}" for device in devices) if with_names else (),
        environment=_addresses(devices) if policy.pass_addresses else {},
    )


def _addresses(devices: Devices) -> dict[str, str]:
    """`PCI_RESOURCE_NVIDIA_COM_PGPU=0000:3b:00.0,0000:5e:00.0`, in which KubeVirt finds what to attach.

    KubeVirt makes the variable's name of the resource's by upper case and `_` for `/` and `.`; a name with a dash is
    given with `_` for that too, for those who read it in a shell.
    """
    found: dict[str, list[str]] = {}
    for device in devices:
        name = f"PCI_RESOURCE_{device.resource}".upper().replace("/", "_").replace(".", "_")
        for variable in dict.fromkeys((name, name.replace("-", "_"))):
            found.setdefault(variable, []).extend(map(str, device.addresses))
    return {variable: ",".join(addresses) for variable, addresses in found.items()}


def choose(requests: Sequence[Sequence[str]], devices: Devices) -> tuple[Devices, ...]:
    """For each container's ids the devices that they are, in order.

    Raises InvalidRequest for ids that are unknown, doubled or missing, DeviceUnavailable for unhealthy ones.
    """
    known = {device.id: device for device in devices}
    taken: set[str] = set()
    return tuple(_choose_for_one(ids, known, taken) for ids in requests)


def _choose_for_one(ids: Sequence[str], known: Mapping[str, AssignableDevice], taken: set[str]) -> Devices:
    if not ids:
        raise InvalidRequest("the request names no device")
    chosen: list[AssignableDevice] = []
    for wanted in ids:
        device = known.get(wanted)
        if device is None:
            raise InvalidRequest(f"there is no device {shown(wanted)}")
        if wanted in taken:
            raise InvalidRequest(f"device {shown(wanted)} is asked for twice")
        if not device.is_healthy:
            reasons = "; ".join(str(problem) for problem in device.problems)
            raise DeviceUnavailable(f"device {label(device)} is unhealthy: {reasons}")
        taken.add(wanted)
        chosen.append(device)
    return tuple(chosen)


def shown(text: str) -> str:
    """An id from a request as it can stand in an error."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
