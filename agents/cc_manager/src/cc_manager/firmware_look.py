"""Every knob of the devices, as the firmware tells them: asked of idle devices that are awake, of no others."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cc_manager.gpu.access import Access
from cc_manager.gpu.knobs import PERMISSION_OF, Knob
from cc_manager.observation import Observation
from nodelib.at_once import at_once
from nodelib.errors import DeviceError
from nodelib.pci import PciAddress


@dataclass(frozen=True, slots=True)
class KnobReading:
    """One device's knobs, or why they could not be read."""

    address: PciAddress
    values: Mapping[Knob, int | None] = field(default_factory=dict)
    """None: the firmware does not have the knob."""
    reason: str = ""

    def is_allowed(self, knob: Knob) -> bool | None:
        """Whether the host may change *knob*; None where the firmware does not say."""
        value = self.values.get(PERMISSION_OF[knob])
        return None if value is None else bool(value)


def read_knobs(
    observations: Collection[Observation], access: Access, only: Collection[PciAddress] | None
) -> tuple[KnobReading, ...]:
    """The knobs of every device among *observations*, or of *only* some; nothing is woken for it, nothing staged."""

    def read(one: Observation) -> KnobReading:
        if one.part is None or one.in_use:
            return KnobReading(one.address, reason=str(one.problem) if one.problem else "in use and not touched")
        try:
            with access.opened(one.address, one.part, wake=False) as device:
                return KnobReading(one.address, device.read_knobs())
        except DeviceError as error:
            return KnobReading(one.address, reason=error.reason)

    return at_once(read, [one for one in observations if only is None or one.address in only])
