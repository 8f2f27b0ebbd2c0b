"""What vfio-manager was told to do, checked."""

from dataclasses import dataclass
from enum import Enum

from nodelib.errors import InvalidValue
from nodelib.pci import PciAddress
from vfio_manager.selector import Selector

READY_FILE = "/run/nvidia/validations/vfio-pci-ready"
"""There while every chosen function is on its VFIO driver; empty."""


class SwitchPolicy(Enum):
    """Which NVSwitches are bound."""

    AUTO = "auto"  # those without a driver, or on a VFIO driver already
    ALWAYS = "always"
    NEVER = "never"

    @classmethod
    def parse(cls, text: str) -> "SwitchPolicy":
        """The policy by name, or by the yes and no of BIND_NVSWITCHES in existing manifests. Raises InvalidValue."""
        match text.strip().lower():
            case "auto" | "always" | "never" as name:
                return cls(name)
            case "true" | "1":
                return cls.ALWAYS
            case "false" | "0" | "":
                return cls.NEVER
            case _:
                raise InvalidValue(
                    f"--nvswitches (BIND_NVSWITCHES) is {text!r}: write auto, always, never, true or false"
                )


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be bound, to what, and how patiently."""

    nvswitches: SwitchPolicy = SwitchPolicy.AUTO
    driver: str | None = None
    """The driver for every device; None: the best match for each in the kernel's module aliases."""
    only: frozenset[PciAddress] = frozenset()
    """Bind these and nothing else; empty: all."""
    include: tuple[Selector, ...] = ()
    """Of the GPUs and NVSwitches, bind only those that one of these names; empty: all."""
    exclude: tuple[Selector, ...] = ()
    """Never bind what one of these names."""
    allowed_group_members: frozenset[PciAddress] = frozenset()
    """Foreign devices that may be taken because they share a GPU's IOMMU group."""
    protected_drivers: frozenset[str] = frozenset()
    """Devices on these drivers are left alone."""
    include_vfs: bool = False
    unbind_timeout_s: float = 30.0
    release_on_stop: bool = False
    """Give idle devices back at a clean stop; else a restart of the daemon touches no device."""
    ready_file: str = READY_FILE
    """Written when all is bound; empty: not ours to write."""
