"""Open VFIO nodes: what a virtual machine monitor does with groups and cdevs, and what the kernel refuses it.

Linux 6.12: drivers/vfio/group.c, device_cdev.c, vfio_main.c, pci/vfio_pci_core.c; drivers/iommu/iommu.c.
"""

import contextlib
import errno

from nodelib.pci import PciAddress
from tests.fakes.kernel.core import Core, Refused
from tests.fakes.kernel.power import settle_power
from tests.fakes.kernel.resets import Resets
from tests.fakes.kernel.state import Function, Group, VfioDevice


class Uses:
    """Enables a function for its first user and disables it after its last, with a reset each time."""

    def __init__(self, core: Core, resets: Resets) -> None:
        self._core = core
        self._resets = resets
        self.files: list[DeviceFile | CdevFile] = []

    def begin(self, function: Function, vfio: VfioDevice) -> None:
        """vfio_pci_core_enable: EAGAIN where somebody holds the device's lock."""
        core = self._core
        with core.changed:
            vfio.users += 1
            if vfio.users > 1:
                return
            settle_power(core, function)
            core.set_enable_count(function, 1)
        with core.locked_if_free(function) as is_mine:
            if not is_mine:
                with core.changed:
                    vfio.users = 0
                    core.set_enable_count(function, 0)
                    settle_power(core, function)
                raise Refused(errno.EAGAIN, f"{function.address} is locked (pci_try_reset_function)")
            with contextlib.suppress(Refused):  # the open goes on without a reset that fails
                self._resets.run(function)

    def end(self, function: Function, vfio: VfioDevice) -> None:
        """vfio_pci_core_disable: no reset where somebody, such as a waiting unbind, holds the device's lock."""
        core = self._core
        if vfio.users > 1:
            vfio.users -= 1
            return
        with core.locked_if_free(function) as is_mine:
            if is_mine and not function.is_off_bus:
                with contextlib.suppress(Refused):
                    self._resets.run(function)
        with core.changed:
            vfio.users = 0
            core.set_enable_count(function, 0)
            settle_power(core, function)

    def release(self, file: "DeviceFile | CdevFile", function: Function, vfio: VfioDevice) -> None:
        with self._core.changed:
            self.files.remove(file)
            vfio.references -= 1
            self._core.changed.notify_all()

    def give_up(self, function: Function) -> None:
        """What a virtual machine does when VFIO tells it that the device must leave."""
        for file in [file for file in self.files if file.function is function]:
            file.close()


class GroupFile:
    """An open /dev/vfio/<group>. Its group stays open until its device files are closed too."""

    def __init__(self, core: Core, uses: Uses, group: Group) -> None:
        self._core, self._uses, self._group = core, uses, group
        self._has_container = self._is_closed = False
        self._devices: set[DeviceFile] = set()
        with core.changed:
            if not group.registered:
                raise Refused(errno.ENODEV, f"no member of group {group.number} is on a VFIO driver")
            if group.is_open or group.cdev_claims:
                raise Refused(errno.EBUSY, f"group {group.number} is in use (vfio_group_fops_open)")
            group.is_open = True

    @property
    def is_viable(self) -> bool:
        """VFIO_GROUP_GET_STATUS, flag VIABLE."""
        return self._has_container or (self._group.is_viable and self._group.owner is None)

    def set_container(self) -> None:
        """VFIO_GROUP_SET_CONTAINER: claims the group, EPERM while a member's driver uses the kernel's own domain."""
        with self._core.changed:
            claim(self._group, self)
        self._has_container = True

    def open_device(self, address: PciAddress) -> "DeviceFile":
        """VFIO_GROUP_GET_DEVICE_FD."""
        if not self._has_container:
            raise Refused(errno.EINVAL, "the group has no container")
        function = next((f for f in self._group.registered if f.address == address), None)
        if function is None or function.vfio is None or function.vfio.is_leaving:
            raise Refused(errno.ENODEV, f"{address} is no VFIO device of group {self._group.number}")
        device = DeviceFile(self._core, self._uses, function, self)
        self._devices.add(device)
        return device

    def close(self) -> None:
        self._is_closed = True
        self._release_if_unused()

    def drop(self, device: "DeviceFile") -> None:
        self._devices.discard(device)
        self._release_if_unused()

    def _release_if_unused(self) -> None:
        if not self._is_closed or self._devices:
            return
        with self._core.changed:
            self._group.is_open = False
            if self._has_container:
                self._has_container = False
                unclaim(self._group)
            self._core.changed.notify_all()


class DeviceFile:
    """A device that was opened through its group; it may be opened more than once."""

    def __init__(self, core: Core, uses: Uses, function: Function, group_file: GroupFile) -> None:
        self.function = function
        self._uses, self._group_file = uses, group_file
        vfio = function.vfio
        assert vfio is not None
        self._vfio: VfioDevice | None = vfio
        with core.changed:
            vfio.references += 1
            uses.files.append(self)
        try:
            uses.begin(function, vfio)
        except Refused:
            uses.release(self, function, vfio)
            raise

    def close(self) -> None:
        vfio, self._vfio = self._vfio, None
        if vfio is None:
            return
        self._uses.end(self.function, vfio)
        self._uses.release(self, self.function, vfio)
        self._group_file.drop(self)


class CdevFile:
    """An open /dev/vfio/devices/vfioN. Any number may be open; only the bind to an IOMMUFD claims the device."""

    def __init__(self, core: Core, uses: Uses, function: Function) -> None:
        self.function = function
        self._core, self._uses = core, uses
        vfio = function.vfio
        assert vfio is not None
        self._vfio: VfioDevice | None = vfio
        self._is_bound = False
        with core.changed:
            vfio.references += 1
            uses.files.append(self)

    def bind_iommufd(self, context: object) -> None:
        """VFIO_DEVICE_BIND_IOMMUFD; *context* stands for the open /dev/iommu."""
        vfio, group = self._vfio, self.function.group
        if vfio is None or self._is_bound or group is None:
            raise Refused(errno.EINVAL, "this file is closed or bound already")
        with self._core.changed:
            if group.is_open:
                raise Refused(errno.EBUSY, f"group {group.number} is open (vfio_device_block_group)")
            if vfio.users:
                raise Refused(errno.EINVAL, f"{self.function.address} is claimed already (vfio_df_open)")
            claim(group, context)
            group.cdev_claims += 1
        self._is_bound = True
        try:
            self._uses.begin(self.function, vfio)
        except Refused:
            self._unbind(group)
            raise

    def close(self) -> None:
        vfio, self._vfio = self._vfio, None
        if vfio is None:
            return
        if self._is_bound and self.function.group is not None:
            self._uses.end(self.function, vfio)
            self._unbind(self.function.group)
        self._uses.release(self, self.function, vfio)

    def _unbind(self, group: Group) -> None:
        with self._core.changed:
            self._is_bound = False
            group.cdev_claims -= 1
            unclaim(group)


def claim(group: Group, owner: object) -> None:
    """iommu_group_claim_dma_owner: one user at a time, and no host driver beside it."""
    if group.owner not in (None, owner) or not group.is_viable:
        raise Refused(errno.EPERM, f"group {group.number} is not viable (iommu_group_claim_dma_owner)")
    group.owner = owner
    group.claims += 1


def unclaim(group: Group) -> None:
    group.claims -= 1
    if not group.claims:
        group.owner = None
