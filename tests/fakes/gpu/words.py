"""BAR0 of an emulated device as its users see it: 32-bit words, and nothing else."""

from typing import NoReturn, Protocol

from tests.fakes.gpu.faults import ALL_ONES


class Registers(Protocol):
    """What is behind the words."""

    @property
    def bar0_bytes(self) -> int: ...

    def access(self, offset: int, value: int | None = None) -> int: ...

    def complain(self, what: str) -> NoReturn: ...


class Words:
    """BAR0 as `memoryview(mmap).cast("I")` gives it, without what corrupts real registers.

    Only `words[offset // 4]` and `words[offset // 4] = value`. A slice, or a loop over the view, copies
    bytes, and an access of another size than 32 bits corrupts registers that move on by themselves.
    """

    def __init__(self, device: Registers) -> None:
        self._device = device

    def __getitem__(self, index: int) -> int:
        return self._device.access(self._offset(index))

    def __setitem__(self, index: int, value: int) -> None:
        offset = self._offset(index)
        if not _is_number(value) or not 0 <= value <= ALL_ONES:
            self._device.complain(f"{offset:#x} := {value!r}, which is no 32-bit word")
        self._device.access(offset, int(value))

    def __iter__(self) -> NoReturn:
        self._device.complain("BAR0 read as a whole")

    def _offset(self, index: int) -> int:
        if not _is_number(index):
            self._device.complain(f"BAR0 accessed by {index!r}, which is no word index")
        if not 0 <= index < self._device.bar0_bytes // 4:
            self._device.complain(f"BAR0 has no word {index:#x}")
        return index * 4


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
