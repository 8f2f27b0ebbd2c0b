"""Which NVIDIA device a PCI function is: GPU, NVSwitch or companion, and which chip.

Classes and id ranges: NVIDIA's open GPU administration tools, release v2025.10.20.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from nodelib.pci import PciDevice

_ON_A_BOARD = re.compile(r"\bSXM|\bHGX\b|\bG?B[23]00\b")
"""Models that are sold only on boards with NVLink between them, by their names in the PCI id database."""

VENDOR_NVIDIA = 0x10DE
CLASS_VGA = 0x030000
CLASS_3D = 0x030200
CLASS_NVSWITCH = 0x068000


class Kind(Enum):
    """What a PCI function is to us."""

    GPU = "GPU"
    NVSWITCH = "NVSwitch"
    COMPANION = "companion"  # a GPU's audio, USB or UCSI function: rides along, is never counted
    VIRTUAL_FUNCTION = "virtual function"  # of SR-IOV: never mistaken for a GPU
    BRIDGE = "bridge"
    FOREIGN = "foreign"  # another vendor's


class Architecture(Enum):
    """GPU generations that can do confidential computing."""

    HOPPER = "Hopper"
    BLACKWELL = "Blackwell"


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip by name, and the generation that decides registers and transport."""

    name: str
    architecture: Architecture


@dataclass(frozen=True, slots=True)
class ChipRange:
    """PCI device ids, both ends included, that are one chip."""

    first: int
    last: int
    chip: Chip


CHIP_RANGES = (
    ChipRange(0x22F0, 0x237F, Chip("GH100", Architecture.HOPPER)),
    ChipRange(0x2900, 0x297F, Chip("GB100", Architecture.BLACKWELL)),
    ChipRange(0x2980, 0x29FF, Chip("GB102", Architecture.BLACKWELL)),
    ChipRange(0x2B80, 0x2BFF, Chip("GB202", Architecture.BLACKWELL)),
    ChipRange(0x2C00, 0x2C7F, Chip("GB203", Architecture.BLACKWELL)),
    ChipRange(0x2D00, 0x2D7F, Chip("GB206", Architecture.BLACKWELL)),
    ChipRange(0x2D80, 0x2DFF, Chip("GB207", Architecture.BLACKWELL)),
    ChipRange(0x2F00, 0x2F7F, Chip("GB205", Architecture.BLACKWELL)),
    ChipRange(0x3180, 0x31FF, Chip("GB110", Architecture.BLACKWELL)),
    ChipRange(0x3200, 0x327F, Chip("GB112", Architecture.BLACKWELL)),
)


def kind_of(device: PciDevice) -> Kind:
    """What *device* is, by vendor, class and SR-IOV link alone; no list of models is consulted."""
    if device.is_bridge:
        return Kind.BRIDGE
    if device.vendor != VENDOR_NVIDIA:
        return Kind.FOREIGN
    if device.physical_function is not None:
        return Kind.VIRTUAL_FUNCTION
    # The last byte (programming interface) does not matter to what the device is.
    base = device.pci_class & 0xFFFF00
    if base in (CLASS_VGA, CLASS_3D):
        return Kind.GPU
    return Kind.NVSWITCH if base == CLASS_NVSWITCH else Kind.COMPANION


def is_assignable_kind(device: PciDevice) -> bool:
    """Whether *device* is what pods ask for: a GPU or an NVSwitch."""
    return kind_of(device) in (Kind.GPU, Kind.NVSWITCH)


def chip_of(device: PciDevice) -> Chip | None:
    """The chip of a GPU, by its id or else by its name in the PCI id database.

    The name counts only for GPUs (audio functions and switches begin with a chip's name too) and only if that
    chip is in the table. None: unknown, and nothing may be written to such a device.
    """
    if kind_of(device) is not Kind.GPU:
        return None
    for known in CHIP_RANGES:
        if known.first <= device.device <= known.last:
            return known.chip
    first_word = (device.name or "").partition(" ")[0]
    return next((known.chip for known in CHIP_RANGES if known.chip.name == first_word), None)


def gpus(devices: Iterable[PciDevice]) -> tuple[PciDevice, ...]:
    return tuple(device for device in devices if kind_of(device) is Kind.GPU)


def nvswitches(devices: Iterable[PciDevice]) -> tuple[PciDevice, ...]:
    return tuple(device for device in devices if kind_of(device) is Kind.NVSWITCH)


def model_of(device: PciDevice) -> str:
    """The model in a word or two: what the PCI id database has in brackets, else its whole name, else the id."""
    name = device.name or f"unknown {device.device:04x}"
    marketing = name.partition("[")[2].partition("]")[0]
    return marketing or name


def nvlink_fabric(device: PciDevice, *, has_switches: bool) -> int | None:
    """A number that GPUs on one NVLink fabric share: their model's PCI device id; None for what is on none.

    A node has one such board, and a card of another model beside it is not on it. The board shows by its NVSwitches
    (*has_switches*) or, where those are no PCI functions of the host (Blackwell), by the model's name. What is really
    connected with what only the GPU's own driver could tell.
    """
    if kind_of(device) is not Kind.GPU:
        return None
    return device.device if has_switches or _ON_A_BOARD.search(device.name or "") else None
