"""Opening a device for register access: awake, memory decoding on, BAR0 mapped, and as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from cc_manager.bar0 import MapWords, map_resource, open_bar0
from cc_manager.chips import Part
from cc_manager.clock import Clock
from cc_manager.hardware import Device
from nodelib.errors import DeviceBusy, DeviceError, DeviceHung
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
        self._clock = clock or Clock()

    @contextmanager
    def opened(self, address: PciAddress, part: Part, *, wake: bool = True) -> Iterator[Device]:
        """The device for register access. Raises DeviceError with the reason why not.

        Without *wake* nothing at all is written: a sleeping device is refused. A device that a virtual machine has
        open is refused always.
        """
        sysfs = self._node.sysfs
        self.check_idle(address)
        self._wake(address, wake=wake)
        command = self._command(address)
        decodes = bool(command & _MEMORY_DECODING)
        if not decodes and not wake:
            raise DeviceError(address, "its memory decoding is off, so its registers cannot be read without a write")
        if not decodes:
            sysfs.write_command(address, command | _MEMORY_DECODING)
        try:
            path = sysfs.resource_path(address)
            with open_bar0(address, path, lockdown=sysfs.lockdown(), map_words=self._map_words) as bar0:
                yield Device(address, part, bar0, self._clock)
        finally:
            if not decodes:
                sysfs.write_command(address, command)

    def check_idle(self, address: PciAddress) -> None:
        """Raise DeviceBusy if a virtual machine has the device, or another of its group, open; and if a driver does."""
        device = self._node.sysfs.pci_device(address)
        if device.driver is not None and not device.is_on_vfio_driver:
            raise DeviceError(
                address, f"driver {device.driver} holds it; bind it first: vfio-manager bind --device {address}"
            )
        members = (address,) if device.iommu_group is None else self._node.sysfs.iommu_group(device.iommu_group).members
        for member in {address, *members}:
            other = self._node.sysfs.pci_device(member)
            if other.is_open:
                raise DeviceBusy(address, f"a virtual machine has {'it' if member == address else member} open")

    def _wake(self, address: PciAddress, *, wake: bool) -> None:
        """Have the device in D0: in D3 its registers read as all ones (PCI power management)."""
        sysfs = self._node.sysfs
        device = sysfs.pci_device(address)
        if not wake:
            if device.is_asleep:
                raise DeviceError(address, f"it sleeps ({device.power_state}) and is not woken only to be looked at")
            return
        if device.power_control not in (None, "on"):
            sysfs.keep_awake(address)
        if not self._clock.wait_until(lambda: not sysfs.pci_device(address).is_asleep, WAKE_TIMEOUT_S, _WAKE_POLL_S):
            raise DeviceError(address, f"it does not wake up ({device.power_state}); reset or power-cycle it")

    def _command(self, address: PciAddress) -> int:
        answer = self._node.sysfs.config([address])[address]
        if answer.state is ConfigState.HUNG:
            raise DeviceHung(address, "its configuration space does not answer: it is resetting or hung")
        if answer.command is None:
            raise DeviceError(address, f"its configuration space does not answer ({answer.state.value})")
        return answer.command
