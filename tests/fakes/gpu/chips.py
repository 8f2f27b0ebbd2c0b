"""The register maps: which register of which chip lies where, and what it reads when all is well."""

from dataclasses import dataclass
from enum import Enum

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RegisterMap:
    identity: int
    bar0_bytes: int
    boot_complete: int
    mode: int
    has_cc_bits: bool
    """Bits 1:0 of the mode register are the CC mode."""
    ppcie_bit: int | None
    """The bit of the mode register that is the PPCIE mode."""
    recovery: int
    """The register whose bit 30 says recovery mode."""
    bus_set_up: tuple[tuple[int, int], ...] = ()
    """Offsets and values that the reference client writes after every reset (facts, section 5)."""


class Chip(Enum):
    # Facts, sections 1, 2 and 5. The facts give no PMC_BOOT_0 for GH100, only what it never reads
    # (0, all ones, 0xbad.....): clients must not compare it with this number.
    GH100 = RegisterMap(
        identity=0x180000A1,
        bar0_bytes=16 * MIB,
        boot_complete=0x200BC,
        mode=0x1182CC,
        has_cc_bits=True,
        ppcie_bit=5,
        recovery=0x20120,
        bus_set_up=((0x12004C, 4), (0x122204, 2)),
    )
    NVSWITCH_GEN3 = RegisterMap(
        identity=0x007000A1,
        bar0_bytes=32 * MIB,
        boot_complete=0x660BC,
        mode=0x28C50,
        has_cc_bits=False,
        ppcie_bit=0,
        recovery=0x66120,
    )
