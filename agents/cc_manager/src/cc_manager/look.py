"""One look at the devices together with what the node's annotation remembers of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cc_manager.cluster import labels
from cc_manager.mode import CcMode
from cc_manager.observation import Observation, Verified
from nodelib.pci import PciAddress


@dataclass(frozen=True, slots=True)
class Look:
    """Every device as it is now, and as it was when it was last verified."""

    observations: tuple[Observation, ...]
    verified: Mapping[PciAddress, Verified]
    """From the annotation: it alone speaks for devices in use."""
    missing: tuple[PciAddress, ...]
    """Devices that were there earlier in this boot."""
    boot_id: str
    now: str
    """UTC, as in RFC 3339."""

    def with_observations(self, observations: tuple[Observation, ...]) -> "Look":
        """The same node looked at again: a device that is not there any more is missing from now on."""
        here = {one.address for one in observations}
        gone = {one.address for one in self.observations}.union(self.missing) - here
        return replace(self, observations=observations, missing=tuple(sorted(gone)))

    def not_in(self, mode: CcMode) -> frozenset[PciAddress]:
        """The devices that must change for the node to be in *mode*."""
        return frozenset(one.address for one in self.observations if not one.is_in(mode))

    def devices(self, changing: Collection[PciAddress] = ()) -> str:
        """The devices annotation; of those *changing* nothing may be believed until they are verified again."""
        return labels.format_devices(
            [one for one in self.observations if one.address not in changing],
            self.verified,
            boot_id=self.boot_id,
            now=self.now,
            without_mode={
                **dict.fromkeys(changing, "it is changing"),
                **dict.fromkeys(self.missing, LEFT_BUS),
            },
        )


LEFT_BUS = "it left the bus"
