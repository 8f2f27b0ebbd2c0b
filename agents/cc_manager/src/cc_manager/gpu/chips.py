"""The kinds of device whose mode can be set: where their registers are and what each mode needs. Pure.

Offsets and limits: facts/fsp-and-cc-mode.md sections 1, 2 and 5, after NVIDIA's open GPU administration tools.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cc_manager.errors import UnsupportedDevice
from cc_manager.gpu.knobs import BLACKWELL_GPU_KNOBS, HOPPER_GPU_KNOBS, NVSWITCH_GEN3_KNOBS, Knob, KnobTable, Targets
from cc_manager.mode import CcMode, ModeBits
from nodelib.nvidia import Kind, chip_of, kind_of
from nodelib.pci import PciAddress, PciDevice

IDENTITY = 0x0
"""PMC_BOOT_0, on every chip."""
BOOT_COMPLETE = 0xFF
"""What the boot register of every chip reads when its boot is done."""
SECURITY_FAULTS = frozenset({0xBADF0200, 0xBAD00200})
"""Readings of the identity that mean a security fault."""


class Mailbox(Enum):
    """The two ways to a chip's FSP."""

    EMEM = "EMEM"
    MNOC = "MNOC"


@dataclass(frozen=True, slots=True)
class BitField:
    """Some bits of one register."""

    offset: int
    low: int
    width: int = 1

    def of(self, word: int) -> int:
        return word >> self.low & (1 << self.width) - 1


@dataclass(frozen=True, slots=True)
class ConfigPlace:
    """A word of configuration space."""

    offset: int
    is_in_dvsec: bool = False
    """Whether it counts from the capability of NVIDIA's that the BAR firewall is in."""

    def __str__(self) -> str:
        where = "NVIDIA's DVSEC capability 0 in configuration space" if self.is_in_dvsec else "configuration space"
        return f"offset {self.offset:#x} of {where}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One kind of device: its registers, its time limits, its modes."""

    name: str
    identity: int | None = None
    """What the identity register must read; None: PCI ids alone decide."""
    zero_identity_is_recovery: bool = False
    mailbox: Mailbox = Mailbox.EMEM
    recovery: BitField
    """Tells recovery mode."""
    healthy: frozenset[int] = frozenset({0})
    """What `recovery` reads without it."""
    boot_complete: int
    boot_timeout_s: float
    has_firewall: bool = False
    """BAR0 may be behind a firewall for a moment after a reset, and while the boot lasts any register may read as an
    error marker of the internal bus: both mean "not yet"."""
    cc_mode: BitField | None
    """None: the part has no CC mode of its own."""
    ppcie: BitField | None
    decoupler: BitField | None = None
    """Set while BAR0 is closed to the host but for a few registers; None: the part does not tell."""
    bus_setup: tuple[tuple[int, int], ...] = ()
    """Register and value of the writes that prepare the internal bus, after opening and after each reset."""
    security_fault_code: ConfigPlace | None = None
    """Where the code of a security fault is; None: not known."""
    knobs: KnobTable

    def targets(self, address: PciAddress, mode: CcMode) -> Targets:
        """The knobs for *mode*. Raises UnsupportedDevice for a mode that the part at *address* does not have."""
        if (targets := self.knobs.get(mode)) is None:
            raise UnsupportedDevice(address, f"{self.name} has no mode {mode}: it can do {', '.join(self.knobs)}")
        return targets

    @property
    def staged_knobs(self) -> tuple[Knob, ...]:
        """The knobs that say which mode is staged."""
        of_cc = (Knob.DEVTOOLS, Knob.CC) if self.cc_mode else ()
        return (*of_cc, Knob.PPCIE) if self.ppcie else of_cc

    def decoupler_knob(self, mode: CcMode) -> int | None:
        """What *mode* sets the decoupler's knob to; None: it does not touch it."""
        return next((target.value for target in self.knobs.get(mode, ()) if target.knob is Knob.DECOUPLER), None)

    @property
    def mode_registers(self) -> tuple[int, ...]:
        """The registers that hold the active mode, each once."""
        return tuple(dict.fromkeys(field.offset for field in (self.cc_mode, self.ppcie) if field is not None))

    def is_in_recovery(self, word: int) -> bool:
        """Whether *word*, read from the register of `recovery`, means recovery mode."""
        return self.recovery.of(word) not in self.healthy

    def mode_bits(self, words: dict[int, int]) -> ModeBits:
        """The active mode, from what each of `mode_registers` read."""
        # Both fields count: bits 1:0 alone take PPCIe for `off` on Hopper.
        return ModeBits(
            cc=self.cc_mode.of(words[self.cc_mode.offset]) if self.cc_mode else 0b00,
            ppcie=bool(self.ppcie and self.ppcie.of(words[self.ppcie.offset])),
        )

    def shown_mode(self, mode: CcMode) -> CcMode:
        """What the part's registers read when its node is in *mode*: a switch stands aside in all but PPCIe."""
        return mode if self.cc_mode or mode is CcMode.PPCIE else CcMode.OFF


HOPPER_GPU = Part(
    name="a Hopper GPU",
    zero_identity_is_recovery=True,
    recovery=BitField(0x20120, low=30),
    boot_complete=0x200BC,
    boot_timeout_s=5.0,
    cc_mode=BitField(0x1182CC, low=0, width=2),
    ppcie=BitField(0x1182CC, low=5),
    bus_setup=((0x12004C, 4), (0x122204, 2)),
    security_fault_code=ConfigPlace(0x2B4),
    knobs=HOPPER_GPU_KNOBS,
)

NVSWITCH_GEN3 = Part(
    name="a third-generation NVSwitch",
    identity=0x007000A1,
    recovery=BitField(0x66120, low=30),
    boot_complete=0x660BC,
    boot_timeout_s=5.0,
    cc_mode=None,
    ppcie=BitField(0x28C50, low=0),
    knobs=NVSWITCH_GEN3_KNOBS,
)


def _blackwell(name: str, boot_complete: int) -> Part:
    return Part(
        name=name,
        mailbox=Mailbox.MNOC,
        recovery=BitField(0x8AA128, low=0, width=8),
        healthy=frozenset({0, 1}),
        boot_complete=boot_complete,
        boot_timeout_s=10.0,
        has_firewall=True,
        cc_mode=BitField(0x590, low=0, width=2),
        ppcie=None,
        decoupler=BitField(0x590, low=2),
        security_fault_code=ConfigPlace(0x14, is_in_dvsec=True),
        knobs=BLACKWELL_GPU_KNOBS,
    )


BLACKWELL_GB1XX = _blackwell("a Blackwell GPU (GB10x, GB11x)", 0x200BC)
BLACKWELL_GB20X = _blackwell("a Blackwell GPU (GB20x)", 0xAD00BC)

_GPU_PARTS: Mapping[str, Part] = {
    "GH100": HOPPER_GPU,
    **dict.fromkeys(("GB100", "GB102", "GB110", "GB112"), BLACKWELL_GB1XX),
    **dict.fromkeys(("GB202", "GB203", "GB205", "GB206", "GB207"), BLACKWELL_GB20X),
}


def part_of(device: PciDevice) -> Part:
    """What *device* is, as far as PCI tells: only its identity register tells the generations of switches apart.

    Raises UnsupportedDevice with the reason; nothing may be written to such a device.
    """
    match kind_of(device):
        case Kind.NVSWITCH:
            return NVSWITCH_GEN3
        case Kind.GPU:
            chip = chip_of(device)
        case other:
            raise UnsupportedDevice(device.address, f"it is no GPU or NVSwitch but a {other.value}")
    if chip is None:
        raise UnsupportedDevice(device.address, f"the chip of device id {device.device:#06x} is not known")
    return _GPU_PARTS[chip.name]
