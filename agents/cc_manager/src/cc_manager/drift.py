"""Devices that are not as they were left: in another mode than was published, or gone from the bus. Pure."""

from collections.abc import Iterable

from cc_manager.cluster import labels
from cc_manager.cluster.labels import NodeView
from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from nodelib.pci import PciAddress
from nodelib.problem import Problem, Refusal

_LEFT_BUS = Problem(
    "left-bus",
    "it was there since the node booted and is on the bus no more",
    "look at the kernel log, rescan the bus or power-cycle the node; if it was taken out on purpose, remove the "
    "annotation nvidia.com/cc.mode.devices",
)


def drift_from(view: NodeView, observations: Iterable[Observation], mode: CcMode) -> str:
    """Which devices left *mode* although the node was verified in it and no change was begun since; empty if none did.

    Only what was read counts: a device that cannot be read has a problem, and that is another thing.
    """
    if view.labels.get(labels.STATE) != mode.value or labels.is_changing(view.annotations):
        return ""
    return "; ".join(
        f"{one.address} is in mode {one.active}"
        if not one.is_left_staged
        else f"{one.address} is in mode {one.active} and the next reset will put {one.staged_text} in force"
        for one in observations
        if one.active is not None and not one.in_use and not one.is_in(mode)
    )


def lost_devices(missing: Iterable[PciAddress]) -> tuple[Refusal, ...]:
    """Why no mode can be told of a node that had these devices earlier in this boot."""
    return tuple(Refusal(address, _LEFT_BUS) for address in missing)
