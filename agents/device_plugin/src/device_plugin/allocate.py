"""Answers to the kubelet: which devices a request means, which nodes they are, which ones are best. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from device_plugin.inventory import Devices, label
from device_plugin.settings import WhenHeld
from nodelib.errors import NodeError
from nodelib.vfio import AssignableDevice

PERMISSIONS = "rw"
"""What VFIO needs of a device node; nobody in the container has to create one (`m`)."""
_SHOWN = 64
"""How much of an id that was sent to us an error repeats: a status has to fit into 8 KiB of trailers."""


class InvalidRequest(NodeError):
    """A request that no state of the node could satisfy."""


class DeviceUnavailable(NodeError):
    """A device that exists and cannot be given away now."""


@dataclass(frozen=True, slots=True)
class HeldPolicy:
    """How to find out that a virtual machine still has a device open, and what to do about it."""

    is_held: Callable[[AssignableDevice], bool]
    busy_wait_s: float
    when_held: WhenHeld


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


def nodes_of(devices: Iterable[AssignableDevice]) -> tuple[str, ...]:
    """The device nodes of one container, each once: devices of the legacy interface share /dev/vfio/vfio."""
    return tuple(dict.fromkeys(node for device in devices for node in device.allocate_nodes))


def prefer(available: Sequence[str], must_include: Sequence[str], size: int, devices: Devices) -> tuple[str, ...]:
    """*size* of the *available* ids, those that must be included first.

    The rest from as few NUMA nodes as possible, beginning with a node that is taken from already; there idle devices
    first. Equal requests get equal answers. An id that we do not know is used last, not refused: Allocate says what
    is wrong with it. Raises InvalidRequest for a request that contradicts itself.
    """
    candidates = dict.fromkeys(available)
    chosen = list(dict.fromkeys(must_include))
    if missing := [wanted for wanted in chosen if wanted not in candidates]:
        raise InvalidRequest(f"device {shown(missing[0])} must be included and is not available")
    if not len(chosen) <= size <= len(candidates):
        raise InvalidRequest(f"cannot prefer {size} of {len(candidates)} devices with {len(chosen)} to be included")
    known = {device.id: device for device in devices}
    by_node = _by_numa_node(sorted(candidates.keys() - set(chosen), key=_idle_first(known)), known)
    while len(chosen) < size:
        node, ids = min(by_node.items(), key=_locality(chosen, size - len(chosen), known))
        chosen += ids[: size - len(chosen)]
        del by_node[node]
    return tuple(chosen)


_NumaNode = int | None


def _by_numa_node(ids: Iterable[str], known: Mapping[str, AssignableDevice]) -> dict[_NumaNode, list[str]]:
    found: dict[_NumaNode, list[str]] = {}
    for wanted in ids:
        found.setdefault(_numa_node(wanted, known), []).append(wanted)
    return found


def _numa_node(wanted: str, known: Mapping[str, AssignableDevice]) -> _NumaNode:
    return known[wanted].numa_node if wanted in known else None


def _locality(
    chosen: Sequence[str], needed: int, known: Mapping[str, AssignableDevice]
) -> Callable[[tuple[_NumaNode, list[str]]], tuple[object, ...]]:
    """The order of NUMA nodes to take from: where we are already, where all fit, where least is in use.

    Then the node with the fewest devices that still suffice, which leaves the larger ones to larger pods; among nodes
    that do not suffice the largest. Devices without a hint come last.
    """
    taken = [_numa_node(wanted, known) for wanted in chosen]

    def rank(entry: tuple[_NumaNode, list[str]]) -> tuple[object, ...]:
        node, ids = entry
        fits = len(ids) >= needed
        busy = sum(known[wanted].in_use for wanted in ids[:needed] if wanted in known)
        size = len(ids) if fits else -len(ids)
        return (node is None, -taken.count(node), not fits, busy, size, node if node is not None else 0)

    return rank


def _idle_first(known: Mapping[str, AssignableDevice]) -> Callable[[str], tuple[object, ...]]:
    """Known before unknown, idle before used, then by number: shorter ids are smaller ones."""
    return lambda wanted: (wanted not in known, wanted in known and known[wanted].in_use, len(wanted), wanted)


def shown(text: str) -> str:
    """An id from a request as it can stand in an error."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
