"""The kinds of device whose mode can be set: where their registers are and what each mode needs. Pure.

Offsets and limits: facts/fsp-and-cc-mode.md sections 1, 2 and 5, after NVIDIA's open GPU administration tools.
"""

from dataclasses import dataclass

from cc_manager.errors import UnsupportedDevice
from cc_manager.knobs import HOPPER_GPU_KNOBS, NVSWITCH_GEN3_KNOBS, Knob, KnobTable, Targets
from cc_manager.mode import CcMode, ModeBits
from nodelib.nvidia import Architecture, Kind, chip_of, kind_of
from nodelib.pci import PciAddress, PciDevice

IDENTITY = 0x0
"""PMC_BOOT_0, on every chip."""
BOOT_COMPLETE = 0xFF
"""What the boot register of every chip reads when its boot is done."""
SECURITY_FAULTS = frozenset({0xBADF0200, 0xBAD00200})
"""Readings of the identity that mean a security fault."""


@dataclass(frozen=True, slots=True)
class BitField:
    """Some bits of one register."""

    offset: int
    low: int
    width: int = 1

    def of(self, word: int) -> int:
        return word >> self.low & (1 << self.width) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One kind of device: its registers, its time limits, its modes."""

    name: str
    identity: int | None = None
    """What the identity register must read; None: PCI ids alone decide."""
    zero_identity_is_recovery: bool = False
    recovery: BitField
    """Set in recovery mode."""
    boot_complete: int
    boot_timeout_s: float
    cc_mode: BitField | None
    """None: the part has no CC mode of its own."""
    ppcie: BitField | None
    bus_setup: tuple[tuple[int, int], ...] = ()
    """Register and value of the writes that prepare the internal bus, after opening and after each reset."""
    security_fault_code: str
    """Where an expert finds the code of a security fault."""
    knobs: KnobTable

    def targets(self, address: PciAddress, mode: CcMode) -> Targets:
        """The knobs for *mode*. Raises UnsupportedDevice for a mode that the part at *address* does not have."""
        if (targets := self.knobs.get(mode)) is None:
            raise UnsupportedDevice(address, f"{self.name} has no mode {mode}: it can do {', '.join(self.knobs)}")
        return targets

    @property
    def staged_knobs(self) -> tuple[Knob, ...]:
        """The knobs that say which mode is staged."""
        return (Knob.PPCIE,) if self.cc_mode is None else (Knob.DEVTOOLS, Knob.CC, Knob.PPCIE)

    @property
    def mode_registers(self) -> tuple[int, ...]:
        """The registers that hold the active mode, each once."""
        return tuple(dict.fromkeys(field.offset for field in (self.cc_mode, self.ppcie) if field is not None))

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
    security_fault_code="configuration space offset 0x2b4",
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
    security_fault_code="no known place",
    knobs=NVSWITCH_GEN3_KNOBS,
)

_GPU_PARTS = {Architecture.HOPPER: HOPPER_GPU}


def part_of(device: PciDevice) -> Part:
    """What *device* is, as far as PCI tells: only its identity register tells the generations of switches apart.

    Raises UnsupportedDevice with the reason; nothing may be written to such a device.
    """
    match kind_of(device):
        case Kind.NVSWITCH:
            return NVSWITCH_GEN3
        case Kind.GPU:
            pass
        case other:
            raise UnsupportedDevice(device.address, f"it is no GPU or NVSwitch but a {other.value}")
    if (chip := chip_of(device)) is None:
        raise UnsupportedDevice(device.address, f"the chip of device id {device.device:#06x} is not known")
    if (part := _GPU_PARTS.get(chip.architecture)) is None:
        raise UnsupportedDevice(
            device.address, f"{chip.architecture.value} GPUs ({chip.name}) are not supported by this version"
        )
    return part
