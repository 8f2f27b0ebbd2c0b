"""Reading and writing a device's registers, with the two readings that are no data told apart."""

from typing import Protocol

from cc_manager.errors import BusError
from nodelib.errors import DeviceGone
from nodelib.pci import PciAddress

GONE = 0xFFFF_FFFF
"""What a read gives when no device answers on the bus (PCI: a master abort reads as all ones)."""

_BUS_ERROR_MARKER = 0xBADF
"""The upper half of a reading that the device's internal bus makes up when it cannot reach a register."""


class Registers(Protocol):
    """32-bit registers at byte offsets."""

    def read32(self, offset: int) -> int: ...

    def write32(self, offset: int, value: int) -> None: ...


def is_bus_error(word: int) -> bool:
    """Whether *word* is an error marker of the internal bus instead of a register's value."""
    return word >> 16 == _BUS_ERROR_MARKER


class CheckedRegisters:
    """The registers of the device at *address*, where reading a value that is no data raises."""

    def __init__(self, address: PciAddress, registers: Registers) -> None:
        self.address = address
        self._registers = registers

    def read32(self, offset: int) -> int:
        """The register's value. Raises DeviceGone or BusError."""
        word = self.read_marker32(offset)
        if is_bus_error(word):
            raise self.bus_error(offset, word)
        return word

    def read_marker32(self, offset: int) -> int:
        """The same where a bus error is an answer too: during a boot it means "not yet"."""
        word = self._registers.read32(offset)
        if word == GONE:
            raise DeviceGone(self.address, f"register {offset:#x} reads {GONE:#x}: the device left the bus or sleeps")
        return word

    def bus_error(self, offset: int, word: int) -> BusError:
        """What it means that the register at *offset* reads *word*, an error marker."""
        return BusError(
            self.address,
            f"register {offset:#x} reads {word:#010x}, an error marker of the device's internal bus",
        )

    def read_data32(self, offset: int) -> int:
        """The next word of a message, which may look like anything, the two markers included."""
        return self._registers.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self._registers.write32(offset, value)
