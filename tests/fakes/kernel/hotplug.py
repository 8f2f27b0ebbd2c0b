"""Functions that come to the bus and leave it.

Linux 6.12: drivers/pci/remove.c, drivers/pci/probe.c, drivers/iommu/iommu.c (iommu_group_add_device).
"""

from collections.abc import Mapping
from pathlib import Path

from nodelib.pci import PciAddress
from tests.fakes.kernel.attributes import entries_of
from tests.fakes.kernel.binding import Binding
from tests.fakes.kernel.core import Core
from tests.fakes.kernel.drivers import Driver
from tests.fakes.kernel.hardware import Hardware, config_space
from tests.fakes.kernel.state import Function, Group
from tests.fakes.kernel.tree import Entry, File, Folder, Link
from tests.fakes.kernel.vfio_files import Uses


class Hotplug:
    def __init__(self, core: Core, binding: Binding, uses: Uses) -> None:
        self._core = core
        self._binding = binding
        self._uses = uses
        self._by_address = core.tree.sys / "bus/pci/devices"
        self._removed: dict[PciAddress, Function] = {}
        """Told to leave through `remove`: a rescan of the bus finds them again."""
        self._unplugged: dict[PciAddress, Function] = {}

    def add(
        self, hardware: Hardware, driver: Driver | None = None, entries: Mapping[str, Entry] | None = None
    ) -> Function:
        """A function that was found, on *driver* before anybody looked; *entries* replace its usual attributes."""
        core = self._core
        assert hardware.address not in core.functions, f"{hardware.address} is there already"
        folder = self._folder_of(hardware)
        depth = len(folder.relative_to(core.tree.sys).parts)
        if entries is None:
            entries = entries_of(hardware, Link("../" * depth + "bus/pci"), driver)
        config = entries.get("config")
        function = Function(
            hardware,
            folder,
            bytearray(config.content if isinstance(config, File) else config_space(hardware)),
            d3cold_allowed=bool(hardware.d3cold_allowed),
        )
        with core.changed:
            core.tree.fill(folder, entries)
            core.functions[hardware.address] = function
            if hardware.iommu_group is not None:
                self._join(function, hardware.iommu_group)
            if hardware.physical_function is not None:
                core.tree.link(folder / "physfn", core.functions[hardware.physical_function].folder)
            core.tree.link(self._by_address / str(hardware.address), folder)
        core.emit("add", "pci", function)
        if driver is not None:
            self._binding.start_bound(function, driver)
        return function

    def unplug(self, function: Function) -> None:
        """Pull it, and what is behind it, out. Virtual machines that use it give it up at once."""
        for one in self._with_children(function):
            self.fall_off(one)  # whatever its users still do to it reaches nothing
            self._uses.give_up(one)
            self._remove(one)
            self._unplugged[one.address] = one

    def remove(self, function: Function) -> None:
        """What a write to `remove` does: waits for the users as an unbind does."""
        for one in self._with_children(function):
            self._remove(one)
            self._removed[one.address] = one

    def plug_back(self, address: PciAddress) -> Function:
        """A new device at the old place: override and settings are lost, and any loaded driver may take it."""
        gone = self._unplugged.pop(address, None) or self._removed.pop(address)
        function = self.add(gone.hardware)
        device = gone.emulated
        if device is not None:
            device.gone = False
            self._core.connect(function, device)
            device.reset()
        self._binding.attach_any(function)
        return function

    def rescan(self) -> None:
        for address in sorted(self._removed):
            self.plug_back(address)

    def fall_off(self, function: Function) -> None:
        """It stops answering; the kernel does not notice, and sends no event."""
        with self._core.changed:
            function.is_off_bus = True
            self._core.show_config(function)

    def _folder_of(self, hardware: Hardware) -> Path:
        place = hardware.address
        if hardware.parent is None:
            return self._core.tree.sys / f"devices/pci{place.domain:04x}:{place.bus:02x}/{place}"
        return self._core.functions[hardware.parent].folder / str(place)

    def _with_children(self, function: Function) -> list[Function]:
        """Itself and all behind it, the deepest first."""
        found = [f for f in self._core.functions.values() if f.folder.is_relative_to(function.folder)]
        return sorted(found, key=lambda f: len(f.folder.parts), reverse=True)

    def _remove(self, function: Function) -> None:
        core = self._core
        with core.locked(function):
            if not function.is_here:
                return
            if function.driver is not None:
                self._binding.release(function)
            with core.changed:
                function.is_here = False
                del core.functions[function.address]
                core.tell_emulated(function)
                core.tree.remove(self._by_address / str(function.address))
                self._leave_group(function)
                core.tree.remove(function.folder)
                core.files.forget(function.folder)
        core.emit("remove", "pci", function)

    def _join(self, function: Function, number: int) -> None:
        core = self._core
        group = core.groups.get(number)
        if group is None:
            group = core.groups[number] = Group(number, core.tree.sys / f"kernel/iommu_groups/{number}")
            core.tree.fill(group.folder, {"type": File(b"DMA\n"), "devices": Folder()})
            self._show_iommu()
        group.members.append(function)
        function.group = group
        core.tree.link(function.folder / "iommu_group", group.folder)
        core.tree.link(group.folder / "devices" / str(function.address), function.folder)

    def _show_iommu(self) -> None:
        """There are groups, so there is an IOMMU."""
        unit = self._core.tree.sys / "devices/virtual/iommu/dmar0"
        if not unit.exists():
            unit.mkdir(parents=True)
            self._core.tree.link(self._core.tree.sys / "class/iommu/dmar0", unit)

    def _leave_group(self, function: Function) -> None:
        group, function.group = function.group, None
        if group is None:
            return
        group.members.remove(function)
        self._core.tree.remove(group.folder / "devices" / str(function.address))
        if not group.members:
            self._core.tree.remove(group.folder)
            del self._core.groups[group.number]
