"""Opening a device for register access: awake, memory decoding on, BAR0 mapped, and as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from cc_manager.clock import Clock
from cc_manager.errors import DeviceAsleep
from cc_manager.gpu.bar0 import MapWords, map_resource, open_bar0
from cc_manager.gpu.chips import Part
from cc_manager.gpu.firewall import pass_firewall, security_fault_code
from cc_manager.gpu.hardware import Device
from nodelib.errors import DeviceBusy, DeviceError, DeviceGone, DeviceHung
from nodelib.node import Node
from nodelib.pci import ConfigState, PciAddress

WAKE_TIMEOUT_S = 2.0
_WAKE_POLL_S = 0.01
_MEMORY_DECODING = 0x2
"""Bit 1 of the PCI command register: without it the BARs read as all ones (PCI specification)."""


class Access:
    """The way from a PCI address to a `Device`; *map_words* is the last inch, the simulated node brings its own."""

    def __init__(self, node: Node, map_words: MapWords = map_resource, clock: Clock | None = None) -> None:
        self._node = node
        self._map_words = map_words
        self.clock = clock or Clock()

    @contextmanager
    def opened(self, address: PciAddress, part: Part, *, wake: bool = True) -> Iterator[Device]:
        """The device for register access. Raises DeviceError with the reason why not.

        Without *wake* nothing at all is written: a sleeping device is refused. A device that a virtual machine has
        open is refused always.
        """
        sysfs = self._node.sysfs
        self.check_idle(address)
        path = sysfs.resource_path(address)
        # Mapped before anything is written: where the kernel does not let us (lockdown, rights), nothing was changed.
        with (
            open_bar0(address, path, lockdown=sysfs.lockdown(), map_words=self._map_words) as bar0,
            sysfs.session(address),
        ):
            self._wake(address, wake=wake)
            with self._decoding(address, wake=wake):
                if part.has_firewall:
                    pass_firewall(sysfs, address, bar0, self.clock, wait=wake)
                yield Device(address, part, bar0, self.clock, lambda: self._fault_code(address, part))

    @contextmanager
    def peeked(self, address: PciAddress, part: Part) -> Iterator[Device]:
        """A device that the host's own driver holds, for reading its registers alone; nothing is written, nobody woken.

        The driver has the device awake and decoding, or it is refused. Raises DeviceError.
        """
        sysfs = self._node.sysfs
        if sysfs.pci_device(address).is_on_vfio_driver:
            raise DeviceBusy(address, "a VFIO driver took it just now")
        path = sysfs.resource_path(address)
        with open_bar0(address, path, lockdown=sysfs.lockdown(), map_words=self._map_words) as bar0:
            self._wake(address, wake=False)
            with self._decoding(address, wake=False):
                yield Device(address, part, bar0, self.clock)

    def check_idle(self, address: PciAddress) -> None:
        """Raise DeviceBusy if a virtual machine has the device, or another of its group, open; and if a driver does."""
        device = self._node.sysfs.pci_device(address)
        if device.driver is not None and not device.is_on_vfio_driver:
            raise DeviceError(
                address, f"driver {device.driver} holds it; bind it first: vfio-manager bind --device {address}"
            )
        use = self._node.sysfs.group_use(device.iommu_group, address)
        for member in use.open:
            raise DeviceBusy(address, f"a virtual machine has {'it' if member == address else member} open")
        for error in use.unread:  # a group of which a part cannot be asked may be in use
            if error.address == address:
                raise error
            raise DeviceError(
                address, f"whether it is in use cannot be told: {error.address}, of its IOMMU group: {error.reason}"
            )

    def is_off_bus(self, address: PciAddress) -> bool:
        """Whether nothing answers at *address* any more, not even in configuration space, though it is not asleep."""
        sysfs = self._node.sysfs
        try:
            is_asleep = sysfs.pci_device(address).is_asleep
        except DeviceGone:
            return True
        return not is_asleep and sysfs.config([address])[address].state is ConfigState.GONE

    def _wake(self, address: PciAddress, *, wake: bool) -> None:
        """Have the device in D0: in D3 its registers read as all ones (PCI power management)."""
        sysfs = self._node.sysfs
        device = sysfs.pci_device(address)
        if not wake:
            if device.is_asleep:
                raise DeviceAsleep(address, f"it sleeps ({device.power_state}) and is not woken only to be looked at")
            return
        if device.power_control not in (None, "on"):
            sysfs.keep_awake(address)
        elif not device.is_asleep:
            return
        if not self.clock.wait_until(lambda: not sysfs.pci_device(address).is_asleep, WAKE_TIMEOUT_S, _WAKE_POLL_S):
            raise DeviceError(address, f"it does not wake up ({device.power_state}); reset or power-cycle it")

    def _fault_code(self, address: PciAddress, part: Part) -> int | None:
        return security_fault_code(self._node.sysfs, address, part.security_fault_code)

    @contextmanager
    def _decoding(self, address: PciAddress, *, wake: bool) -> Iterator[None]:
        """Memory decoding on meanwhile; a device without a driver may have it off."""
        command = self._command(address)
        if command & _MEMORY_DECODING:
            yield
            return
        if not wake:
            raise DeviceError(address, "its memory decoding is off, so its registers cannot be read without a write")
        self._node.sysfs.write_command(address, command | _MEMORY_DECODING)
        try:
            yield
        finally:
            if self._is_idle(address):  # else the register is a VM's, which opened the device meanwhile
                self._node.sysfs.write_command(address, command)

    def _is_idle(self, address: PciAddress) -> bool:
        try:
            self.check_idle(address)
        except DeviceError:
            return False
        return True

    def _command(self, address: PciAddress) -> int:
        answer = self._node.sysfs.config([address])[address]
        if answer.state is ConfigState.HUNG:
            raise DeviceHung(address, "its configuration space does not answer: it is resetting or hung")
        if answer.command is None:
            gone_or_not = DeviceGone if answer.state is ConfigState.GONE else DeviceError
            raise gone_or_not(address, f"its configuration space does not answer ({answer.state.value})")
        return answer.command
