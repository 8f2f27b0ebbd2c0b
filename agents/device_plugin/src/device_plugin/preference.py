"""Which of the free devices are best together. Pure.

One order of nearness after the other: what must be in the set, one NVLink fabric, one NUMA node, one PCIe root; then
idle before used, then by number. Equal requests get equal answers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from device_plugin.allocate import InvalidRequest, shown
from device_plugin.inventory import Devices
from nodelib.vfio import AssignableDevice

_Known = Mapping[str, AssignableDevice]
_Place = str | int | None


@dataclass(frozen=True, slots=True)
class _Level:
    """One way to be near: devices are near that have the same place."""

    place: Callable[[AssignableDevice], _Place]
    single_from_nowhere: bool = False
    """Whether one device by itself is best taken from those that have no place here, which leaves sets whole."""


_LEVELS = (
    _Level(lambda device: device.fabric, single_from_nowhere=True),
    _Level(lambda device: device.numa_node),
    _Level(lambda device: device.pcie_root),
)


def prefer(available: Sequence[str], must_include: Sequence[str], size: int, devices: Devices) -> tuple[str, ...]:
    """*size* of the *available* ids, those that must be included first.

    An id that is not among *devices* is used last, not refused: Allocate says what is wrong with it. Raises
    InvalidRequest for a request that contradicts itself.
    """
    candidates = dict.fromkeys(available)
    chosen = list(dict.fromkeys(must_include))
    if missing := [wanted for wanted in chosen if wanted not in candidates]:
        raise InvalidRequest(f"device {shown(missing[0])} must be included and is not available")
    if not len(chosen) <= size <= len(candidates):
        raise InvalidRequest(f"cannot prefer {size} of {len(candidates)} devices with {len(chosen)} to be included")
    known = {device.id: device for device in devices}
    rest = sorted(candidates.keys() - set(chosen), key=_idle_first(known))
    known_rest = [wanted for wanted in rest if wanted in known]
    chosen += _nearest(known_rest, size - len(chosen), chosen, _LEVELS, known)
    chosen += [wanted for wanted in rest if wanted not in known][: size - len(chosen)]
    return tuple(chosen)


def _nearest(ids: Sequence[str], count: int, near: Sequence[str], levels: Sequence[_Level], known: _Known) -> list[str]:
    """At most *count* of *ids* (idle first), as near to each other and to *near* as *levels* allow."""
    if count >= len(ids) or not levels:
        return list(ids[:count])
    level, *deeper = levels
    places: dict[_Place, list[str]] = {}
    for wanted in ids:
        places.setdefault(level.place(known[wanted]), []).append(wanted)
    chosen: list[str] = []
    while len(chosen) < count:
        left, so_far = count - len(chosen), [*near, *chosen]
        place = min(places, key=_rank(level, places, left, so_far, known))
        chosen += _nearest(places.pop(place), left, so_far, deeper, known)
    return chosen


def _rank(
    level: _Level, places: Mapping[_Place, Sequence[str]], needed: int, near: Iterable[str], known: _Known
) -> Callable[[_Place], tuple[object, ...]]:
    """The order of places to take from: where we are already, where all fit, where least is in use.

    Then the place with the fewest devices that still suffice, which leaves the larger ones to larger pods; among places
    that do not suffice the largest. Of equal ones a known place is better than none.
    """
    taken = [level.place(known[wanted]) for wanted in near if wanted in known]
    nowhere_first = level.single_from_nowhere and needed == 1 and not taken

    def rank(place: _Place) -> tuple[object, ...]:
        ids = places[place]
        fits = len(ids) >= needed
        is_second = (place is None) is not nowhere_first
        busy = sum(known[wanted].in_use for wanted in ids[:needed])
        size = len(ids) if fits else -len(ids)
        return (-taken.count(place), not fits, is_second, busy, size, min(map(_number, ids)))

    return rank


def _idle_first(known: _Known) -> Callable[[str], tuple[object, ...]]:
    return lambda wanted: (wanted in known and known[wanted].in_use, _number(wanted))


def _number(wanted: str) -> tuple[int, str]:
    """Ids in the order of their numbers: the shorter one is the smaller one."""
    return len(wanted), wanted
