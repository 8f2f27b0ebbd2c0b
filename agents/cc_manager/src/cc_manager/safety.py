"""Whether devices may be handed out again after a change that did not end well. Pure."""

from collections.abc import Iterable

from cc_manager.observation import Observation
from nodelib.pci import PciAddress


def not_put_back(observations: Iterable[Observation]) -> tuple[PciAddress, ...]:
    """The devices whose next reset may change their mode, which the VM that opens one causes: field-problems, row 41.

    A device that is there and cannot be read may have anything staged. One that left the bus cannot be opened, whether
    the kernel has noticed or not, and if it ever comes back it was reset on the way, and is looked at again; one that
    a driver of the host holds must be bound first, by an operand; one in use was reset when it was opened.
    """
    return tuple(one.address for one in observations if one.is_left_staged or _is_unknown(one))


def _is_unknown(one: Observation) -> bool:
    return one.problem is not None and one.problem.code == "unreadable"
