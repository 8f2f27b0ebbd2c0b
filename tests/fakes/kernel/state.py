"""What the simulated kernel remembers of each function and IOMMU group, and of what it was told to do wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from nodelib.pci import PciAddress
from tests.fakes.kernel.drivers import Driver
from tests.fakes.kernel.hardware import CONFIG_BYTES, Hardware

PowerState = Literal["D0", "D3hot", "D3cold"]


class Words(Protocol):
    """BAR0 as 32-bit words."""

    def __getitem__(self, index: int) -> int: ...

    def __setitem__(self, index: int, value: int) -> None: ...


class Emulated(Protocol):
    """The device behind a function: what the kernel tells it, and its BAR0."""

    power_state: Literal["D0", "D3hot"]
    memory_decoding: bool
    gone: bool
    on_change: Callable[[], None]
    """Set by the kernel; called when `gone` or `config_words` has changed."""

    def reset(self) -> None: ...

    def config_words(self) -> Mapping[int, int]:
        """What it puts into its configuration space beyond the header: dwords by offset."""
        ...

    def bar0(self) -> Words: ...


@dataclass(frozen=True, slots=True)
class Uevent:
    """What the kernel tells udev."""

    action: str
    """`add`, `remove`, `bind` or `unbind`."""
    subsystem: str
    """`pci`, `vfio` or `vfio-dev`."""
    devpath: str
    """The folder below /sys, with a leading slash."""
    address: PciAddress | None = None
    """The PCI function concerned; None for the node of a VFIO group."""

    @property
    def sys_name(self) -> str:
        return self.devpath.rpartition("/")[2]


@dataclass(slots=True, eq=False)
class Group:
    number: int
    folder: Path
    members: list["Function"] = field(default_factory=list)
    is_noiommu: bool = False
    registered: list["Function"] = field(default_factory=list)
    """Members on a VFIO driver: the group's node is there while there are any."""
    is_open: bool = False
    """A process has the legacy node open."""
    owner: object | None = None
    """Who claimed the group's DMA for user space, and how often."""
    claims: int = 0
    cdev_claims: int = 0

    @property
    def is_viable(self) -> bool:
        """No member's driver uses the kernel's own DMA domain."""
        return all(member.driver is None or member.driver.shares_dma for member in self.members)


@dataclass(slots=True, eq=False)
class VfioDevice:
    """What vfio-pci keeps for a function that is bound to it."""

    index: int
    references: int = 0
    """Open files: an unbind waits for the last."""
    users: int = 0
    """Those of them that use the device; the first enables it, the last disables it."""
    is_leaving: bool = False


@dataclass(slots=True, eq=False)
class Function:
    hardware: Hardware
    folder: Path
    config: bytearray
    group: Group | None = None
    driver: Driver | None = None
    override: str | None = None
    enable_count: int = 0
    power_control: str = "on"
    power_state: PowerState = "D0"
    d3cold_allowed: bool = False
    is_locked: bool = False
    """Linux's device_lock, held through every bind, unbind and reset."""
    is_resetting: bool = False
    is_here: bool = True
    is_off_bus: bool = False
    users: int = 0
    """Processes that have the device open through a driver that is no VFIO driver."""
    vfio: VfioDevice | None = None
    emulated: Emulated | None = None

    @property
    def address(self) -> PciAddress:
        return self.hardware.address

    @property
    def is_used_by_vm(self) -> bool:
        return self.vfio is not None and self.vfio.users > 0


@dataclass(slots=True)
class Faults:
    """What takes long, hangs or fails on command; set the fields at any time.

    A verb is the attribute's name: `bind`, `unbind`, `reset`, `driver_override`, `power/control`, `drivers_probe`...
    """

    bind_s: float = 0.0
    unbind_s: float = 0.0
    reset_s: float = 0.0
    reset_s_of: dict[PciAddress, float] = field(default_factory=dict)
    """The same for one function."""
    lost_reset_s: float = 0.1
    """How long a reset waits for a function that fell off the bus; minutes on real machines."""
    hang: set[tuple[PciAddress, str]] = field(default_factory=set)
    """Writes that do not return until `FakeKernel.release_hangs`."""
    fail: dict[tuple[PciAddress, str], int] = field(default_factory=dict)
    """The errno of a write. For `bind` it is the driver's own, which `drivers_probe` does not tell."""
    fail_next: dict[tuple[PciAddress, str], list[int]] = field(default_factory=dict)
    """The errnos of the coming writes, one each; 0: that one succeeds."""
    bar0_open: dict[PciAddress, int] = field(default_factory=dict)
    """The errno of opening `resource0`: EPERM in a sandbox or virtual machine that forbids it."""
    bar0_mmap: dict[PciAddress, int] = field(default_factory=dict)
    """The errno of mapping it, after it could be opened."""
    bar0_is_shared: bool = False
    """The kernel is built without CONFIG_IO_STRICT_DEVMEM: BAR0 can be mapped beside the driver that has claimed it."""
    config_bytes: int = CONFIG_BYTES
    """How much of `config` can be read: 64 without CAP_SYS_ADMIN (drivers/pci/pci-sysfs.c, pci_read_config). To be set
    before devices are added."""
    before_write: Callable[[str, str], None] | None = None
    """Called with the path below /sys and the value before each write: things change between two of them."""
    is_read_only: bool = False
    """/sys is mounted read-only where the agent runs."""
