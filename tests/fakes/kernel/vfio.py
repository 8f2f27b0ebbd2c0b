"""VFIO devices of bound functions: their nodes, numbers and groups.

Linux 6.12: drivers/vfio/vfio_main.c, group.c, device_cdev.c, pci/vfio_pci_core.c.
"""

import errno
import itertools

from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.power import set_power_control, settle_power
from tests.fakes.kernel.state import Function, Group, VfioDevice
from tests.fakes.kernel.tree import Entry, File, Link

_GROUP_MAJOR, _CDEV_MAJOR = 243, 511


class Vfio:
    def __init__(self, core: Core, *, has_groups: bool, has_cdevs: bool) -> None:
        self._core = core
        self.has_groups = has_groups
        self.has_cdevs = has_cdevs
        self.allows_noiommu = False
        sys, dev = core.tree.sys, core.tree.root / "dev"
        self._group_class, self._cdev_class = sys / "class/vfio", sys / "class/vfio-dev"
        self._group_devices = sys / "devices/virtual/vfio"
        self._dev_vfio = dev / "vfio"
        if has_groups or has_cdevs:
            for folder in (self._group_class, self._cdev_class, self._group_devices, self._dev_vfio / "devices"):
                folder.mkdir(parents=True)
        if has_groups:
            core.tree.write(self._dev_vfio / "vfio", "", 0o666)
        if has_cdevs:
            core.tree.write(dev / "iommu", "", 0o600)

    def check(self, function: Function) -> None:
        """What makes a VFIO driver refuse the function."""
        if function.hardware.has_port_header:
            raise Refused(errno.EINVAL, "a port has no normal header (vfio_pci_core_register_device)")
        if function.hardware.vf_count:
            raise Refused(errno.EBUSY, "its virtual functions are on (vfio_pci_core_register_device)")
        if function.group is None and not self.allows_noiommu:
            raise Refused(errno.EINVAL, "it is in no IOMMU group (group.c, vfio_group_find_or_alloc)")

    def register(self, function: Function) -> None:
        """Make the nodes of a function that was just bound. N is the lowest free one, so numbers pass to others."""
        core = self._core
        with core.changed:
            if function.group is None:
                self._make_noiommu_group(function)
            group = function.group
            assert group is not None
            is_first = not group.registered
            group.registered.append(function)
            taken = {other.vfio.index for other in core.functions.values() if other.vfio}
            index = next(number for number in itertools.count() if number not in taken)
            function.vfio = VfioDevice(index)
            if is_first:
                self._show_group(group)
            self._show_device(function, index)
            set_power_control(core, function, "auto")
        if is_first and self.has_groups:
            core.emit_group("add", node_name(group))
        if core.release >= (6, 1):
            core.emit("add", "vfio-dev", function, f"vfio-dev/vfio{index}")

    def unregister(self, function: Function) -> None:
        """Take the nodes away. New opens fail at once; then it waits until every open file is closed."""
        core = self._core
        vfio, group = function.vfio, function.group
        assert vfio is not None
        assert group is not None
        name = f"vfio{vfio.index}"
        with core.changed:
            vfio.is_leaving = True
            settle_power(core, function)
            core.tree.remove(self._dev_vfio / "devices" / name)
            core.tree.remove(self._cdev_class / name)
            core.tree.remove(function.folder / "vfio-dev")
        if core.release >= (6, 1):
            core.emit("remove", "vfio-dev", function, f"vfio-dev/{name}")
        with core.changed:
            core.wait_until(lambda: not vfio.references)
            group.registered.remove(function)
            function.vfio = None
            was_last = not group.registered
            if was_last:
                self._hide_group(group)
            set_power_control(core, function, "on")
        if was_last and self.has_groups:
            core.emit_group("remove", node_name(group))

    def device_at(self, node: str) -> Function:
        """The function behind the cdev *node* (`vfio3`)."""
        for function in self._core.functions.values():
            if function.vfio and f"vfio{function.vfio.index}" == node and not function.vfio.is_leaving:
                return function
        raise FileNotFoundError(errno.ENOENT, f"there is no /dev/vfio/devices/{node}")

    def _show_group(self, group: Group) -> None:
        if not self.has_groups:
            return
        tree, node = self._core.tree, node_name(group)
        folder = self._group_devices / node
        tree.fill(folder, {"dev": File(f"{_GROUP_MAJOR}:{group.number}\n".encode(), 0o444), "uevent": File()})
        tree.link(self._group_class / node, folder)
        tree.write(self._dev_vfio / node, "", 0o600)

    def _hide_group(self, group: Group) -> None:
        tree, node = self._core.tree, node_name(group)
        if self.has_groups:
            tree.remove(self._dev_vfio / node)
            tree.remove(self._group_class / node)
            tree.remove(self._group_devices / node)
        if group.is_noiommu:
            self._remove_noiommu_group(group)

    def _show_device(self, function: Function, index: int) -> None:
        core = self._core
        if core.release < (6, 1):
            return
        name = f"vfio{index}"
        entries: dict[str, Entry] = {f"{name}/uevent": File(), f"{name}/device": Link(f"../../../{function.address}")}
        if self.has_cdevs:
            entries[f"{name}/dev"] = File(f"{_CDEV_MAJOR}:{index}\n".encode(), 0o444)
        core.tree.fill(function.folder / "vfio-dev", entries)
        core.tree.link(self._cdev_class / name, function.folder / "vfio-dev" / name)
        if self.has_cdevs:
            core.tree.write(self._dev_vfio / "devices" / name, "", 0o600)

    def _make_noiommu_group(self, function: Function) -> None:
        core = self._core
        number = next(number for number in itertools.count() if number not in core.groups)
        group = Group(number, core.tree.sys / f"kernel/iommu_groups/{number}", [function], is_noiommu=True)
        core.groups[number] = function.group = group
        (group.folder / "devices").mkdir(parents=True)
        core.tree.write(group.folder / "name", "vfio-noiommu\n", 0o444)
        core.tree.link(group.folder / "devices" / str(function.address), function.folder)
        core.tree.link(function.folder / "iommu_group", group.folder)

    def _remove_noiommu_group(self, group: Group) -> None:
        for function in group.members:
            self._core.tree.remove(function.folder / "iommu_group")
            function.group = None
        self._core.tree.remove(group.folder)
        del self._core.groups[group.number]


def node_name(group: Group) -> str:
    return f"noiommu-{group.number}" if group.is_noiommu else str(group.number)
