"""Virtual machines as users of VFIO devices: what QEMU opens at start and closes at its end."""

from collections.abc import Callable
from typing import Protocol, Self

from tests.fakes.kernel.state import Function
from tests.fakes.kernel.vfio import node_name
from tests.fakes.kernel.vfio_files import CdevFile, GroupFile


class _OpenFile(Protocol):
    def close(self) -> None: ...


class VirtualMachine:
    """It plugs each device either by its group or by its cdev; *end* is called when it has ended."""

    def __init__(
        self,
        open_group: Callable[[int], GroupFile],
        open_cdev: Callable[[str], CdevFile],
        end: Callable[[], None],
    ) -> None:
        self.nodes: list[str] = []
        """The host's paths that it has open."""
        self._open_group = open_group
        self._open_cdev = open_cdev
        self._end = end
        self._groups: dict[int, GroupFile] = {}
        self._files: list[_OpenFile] = []

    def plug(self, function: Function, *, by_cdev: bool) -> None:
        if by_cdev:
            self._plug_by_cdev(function)
        else:
            self._plug_by_group(function)

    def close(self) -> None:
        while self._files:
            self._files.pop().close()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plug_by_group(self, function: Function) -> None:
        group = function.group
        assert group is not None, f"{function.address} is in no IOMMU group"
        if group.number not in self._groups:
            file = self._open_group(group.number)
            self._groups[group.number] = file
            self._files.append(file)
            self.nodes.append(f"/dev/vfio/{node_name(group)}")
            file.set_container()
        self._files.append(self._groups[group.number].open_device(function.address))

    def _plug_by_cdev(self, function: Function) -> None:
        assert function.vfio is not None, f"{function.address} is on no VFIO driver"
        node = f"vfio{function.vfio.index}"
        file = self._open_cdev(node)
        self._files.append(file)
        self.nodes.append(f"/dev/vfio/devices/{node}")
        file.bind_iommufd(self)
