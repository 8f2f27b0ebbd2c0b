"""The register maps: which register of which chip lies where, and what it reads when all is well."""

from dataclasses import dataclass
from enum import Enum, auto

MIB = 1 << 20
PCI_CLASS_NVSWITCH = 0x068000


class Carrier(Enum):
    """What carries messages to the FSP."""

    EMEM = auto()
    MNOC = auto()


@dataclass(frozen=True, slots=True)
class RegisterMap:
    identity: int
    bar0_bytes: int
    carrier: Carrier | None
    """None: the chip takes no messages that the facts know of."""
    boot_complete: int | None = None
    mode: int | None = None
    has_cc_bits: bool = False
    """Bits 1:0 of the mode register are the CC mode."""
    ppcie_bit: int | None = None
    """The bit of the mode register that is the PPCIE mode."""
    decoupler_bit: int | None = None
    """The bit of the mode register that tells that the BAR0 decoupler is active."""
    recovery: int | None = None
    recovered: int = 0
    """What the recovery register reads when all is well."""
    in_recovery: int = 1 << 30
    bus_set_up: tuple[tuple[int, int], ...] = ()
    """Offsets and values that the reference client writes after every reset (facts, section 5)."""
    has_firewall: bool = False
    """BAR0 reads all ones for a moment after a reset, and 0xbadf.... for another (facts, section 2)."""

    @property
    def has_mode(self) -> bool:
        return self.mode is not None


def _blackwell(identity: int, boot_complete: int) -> RegisterMap:
    return RegisterMap(
        identity=identity,
        bar0_bytes=16 * MIB,
        carrier=Carrier.MNOC,
        boot_complete=boot_complete,
        mode=0x590,
        has_cc_bits=True,
        decoupler_bit=2,
        recovery=0x8AA128,
        # "Low byte neither 0 nor 1" is recovery; the upper three here make a client that compares all of it fail.
        recovered=0x00C0DE01,
        in_recovery=0x00C0DE02,
        has_firewall=True,
    )


class Chip(Enum):
    # Facts, sections 1, 2 and 5. The facts give no PMC_BOOT_0 for GPUs, only what it never reads
    # (0, all ones, 0xbad.....): clients must not compare it with these numbers.
    GH100 = RegisterMap(
        identity=0x180000A1,
        bar0_bytes=16 * MIB,
        carrier=Carrier.EMEM,
        boot_complete=0x200BC,
        mode=0x1182CC,
        has_cc_bits=True,
        ppcie_bit=5,
        recovery=0x20120,
        bus_set_up=((0x12004C, 4), (0x122204, 2)),
    )
    GB100 = _blackwell(0x1A0000A1, 0x200BC)
    GB102 = _blackwell(0x1A2000A1, 0x200BC)
    GB110 = _blackwell(0x1AA000A1, 0x200BC)
    GB112 = _blackwell(0x1AC000A1, 0x200BC)
    GB202 = _blackwell(0x1B2000A1, 0xAD00BC)
    GB203 = _blackwell(0x1B3000A1, 0xAD00BC)
    GB205 = _blackwell(0x1B5000A1, 0xAD00BC)
    GB206 = _blackwell(0x1B6000A1, 0xAD00BC)
    GB207 = _blackwell(0x1B7000A1, 0xAD00BC)
    NVSWITCH_GEN3 = RegisterMap(
        identity=0x007000A1,
        bar0_bytes=32 * MIB,
        carrier=Carrier.EMEM,
        boot_complete=0x660BC,
        mode=0x28C50,
        ppcie_bit=0,
        recovery=0x66120,
    )
    NVSWITCH_GEN2 = RegisterMap(identity=0x006000A1, bar0_bytes=32 * MIB, carrier=None)

    @property
    def is_gpu(self) -> bool:
        return self.value.has_cc_bits

    @property
    def is_blackwell(self) -> bool:
        return self.value.carrier is Carrier.MNOC


# Facts, section 1: PCI device ids, first and last.
_GPUS = (
    (0x22F0, 0x237F, Chip.GH100),
    (0x2900, 0x297F, Chip.GB100),
    (0x2980, 0x29FF, Chip.GB102),
    (0x3180, 0x31FF, Chip.GB110),
    (0x3200, 0x327F, Chip.GB112),
    (0x2B80, 0x2BFF, Chip.GB202),
    (0x2C00, 0x2C7F, Chip.GB203),
    (0x2F00, 0x2F7F, Chip.GB205),
    (0x2D00, 0x2D7F, Chip.GB206),
    (0x2D80, 0x2DFF, Chip.GB207),
)
_SWITCH_GEN3 = 0x22A3


def chip_behind(device: int, pci_class: int) -> Chip | None:
    """The chip with this PCI device id; None for one that cannot be emulated. Switches are known by their class."""
    if pci_class == PCI_CLASS_NVSWITCH:
        return Chip.NVSWITCH_GEN3 if device == _SWITCH_GEN3 else Chip.NVSWITCH_GEN2
    return next((chip for first, last, chip in _GPUS if first <= device <= last), None)
