"""The one door to /sys: every read and every write of a PCI device goes through here.

Attributes: Linux, Documentation/ABI/testing/sysfs-bus-pci, sysfs-kernel-iommu_groups, sysfs-devices-vfio-dev.
"""

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from nodelib import attributes, pciids
from nodelib.config_space import COMMAND_OFFSET, HEADER_BYTES, ConfigAnswer, judge_config
from nodelib.errors import DeviceBusy, DeviceError, DeviceGone, NotSupported
from nodelib.files import HostRoot
from nodelib.iommu import GroupUse, IommuGroup
from nodelib.kernel_writes import QUICK_S, KernelWriter
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.pci import PciAddress, PciDevice
from nodelib.slow_reads import SlowReader

T = TypeVar("T")

BIND_S = 30.0
"""A driver may reset and train the device when it takes it."""


class Sysfs:
    """The host's /sys below a root; *writer* is what stands between us and the kernel."""

    def __init__(
        self,
        host: HostRoot,
        writer: KernelWriter | None = None,
        slow_reader: SlowReader | None = None,
    ) -> None:
        self._sys = host.root / "sys"
        self._pci = self._sys / "bus/pci"
        self._devices = str(self._pci / "devices")
        self._writer = writer or KernelWriter()
        self.slow_reader = slow_reader or SlowReader()
        """For files that can block in the kernel, /sys or not."""

    def close(self) -> None:
        """Give up the processes that do what can block."""
        self.slow_reader.close()
        self._writer.close()

    # --- what is there

    def pci_folder_names(self) -> tuple[str, ...]:
        """The names in /sys/bus/pci/devices. Raises NotSupported where there is no such folder."""
        try:
            return tuple(os.listdir(self._devices))  # noqa: PTH208 - names alone, in the hot path
        except OSError as error:
            raise NotSupported(
                f"cannot list {self._devices} ({error.strerror}): is its /sys mounted under --host-root?"
            ) from error

    def vendor(self, folder: str) -> int:
        """The vendor id of the device folder *folder*. Raises OSError or ValueError."""
        return attributes.parse_hex(attributes.read_text(f"{self._devices}/{folder}/vendor"))

    def pci_device(self, address: PciAddress) -> PciDevice:
        """The function at *address* as it is now, without what takes its lock to read (`with_locked_attributes`).

        Attributes that a kernel may lack are None; those that make no sense are named in `faults`. Raises DeviceGone
        where the folder vanished, DeviceError where vendor, device or class cannot be read.
        """
        folder = f"{self._devices}/{address}"
        faults: list[str] = []

        def optional(attribute: str, parse: Callable[[str], T], default: T) -> T:
            try:
                return parse(attributes.read_text(f"{folder}/{attribute}"))
            except FileNotFoundError:
                return default  # a kernel may lack it
            except OSError as error:
                faults.append(f"{attribute} cannot be read ({error.strerror})")
            except ValueError as error:
                faults.append(f"{attribute} makes no sense ({error})")
            return default

        vendor, device, pci_class = (self._identity(address, name) for name in ("vendor", "device", "class"))
        cdev, has_vfio_dev = attributes.vfio_cdev(folder)
        return PciDevice(
            address=address,
            vendor=vendor,
            device=device,
            pci_class=pci_class,
            name=pciids.device_name(device) if vendor == VENDOR_NVIDIA else None,
            driver=attributes.link_name(f"{folder}/driver"),
            iommu_group=attributes.group_number(f"{folder}/iommu_group", faults),
            pcie_root=attributes.pcie_root(folder),
            numa_node=optional("numa_node", attributes.parse_numa_node, None),
            enable=optional("enable", attributes.parse_count, None),
            has_vfio_dev=has_vfio_dev,
            vfio_cdev=cdev,
            physical_function=attributes.linked_address(f"{folder}/physfn", faults),
            power_state=optional("power_state", str, None),
            power_control=optional("power/control", str, None),
            d3cold_allowed=optional("d3cold_allowed", attributes.parse_flag, None),
            modalias=optional("modalias", str, ""),
            faults=tuple(faults),
        )

    def iommu_group_numbers(self) -> frozenset[int]:
        """Every IOMMU group of the node; none where the IOMMU is off."""
        return attributes.numbers_in(self._sys / "kernel/iommu_groups")

    def iommu_group(self, number: int) -> IommuGroup:
        """Group *number* with all its members."""
        folder = self._sys / "kernel/iommu_groups" / str(number)
        try:
            name = attributes.read_text(f"{folder}/name")
        except OSError:
            name = None  # most groups have none
        members = (attributes.address_or_none(text) for text in attributes.names_in(folder / "devices"))
        return IommuGroup(number, tuple(sorted(member for member in members if member is not None)), name)

    def group_use(self, group: int | None, *functions: PciAddress) -> GroupUse:
        """Which functions of *group*, and of *functions*, a virtual machine has open now.

        *functions* are asked whether the group lists them or not: a device leaves its group's folder first.
        """
        members = () if group is None else self.iommu_group(group).members
        read: list[PciDevice] = []
        unread: list[DeviceError] = []
        for address in dict.fromkeys((*functions, *members)):
            try:
                read.append(self._use_of(address))
            except DeviceError as error:
                unread.append(error)
        is_open = tuple(function.address for function in read if function.is_open)
        return GroupUse(tuple(function.address for function in read), is_open, tuple(unread))

    def _use_of(self, address: PciAddress) -> PciDevice:
        """The function with only what `is_open` asks for: Allocate waits for this. Raises as `pci_device` does."""
        folder = f"{self._devices}/{address}"
        try:
            enable = attributes.parse_count(attributes.read_text(f"{folder}/enable"))
        except (OSError, ValueError):
            enable = None
        return PciDevice(
            address=address,
            vendor=0,
            device=0,
            pci_class=self._identity(address, "class"),
            driver=attributes.link_name(f"{folder}/driver"),
            enable=enable,
            has_vfio_dev=attributes.has_vfio_dev(folder),
        )

    def vfio_group_nodes(self) -> frozenset[int]:
        """The groups that the kernel shows a legacy VFIO node for."""
        return attributes.numbers_in(self._sys / "class/vfio")

    def drivers(self) -> frozenset[str]:
        """The names of the PCI drivers that are loaded or built in."""
        return frozenset(attributes.names_in(self._pci / "drivers"))

    def config(self, addresses: Iterable[PciAddress], size: int = HEADER_BYTES) -> dict[PciAddress, ConfigAnswer]:
        """What the first *size* bytes of each device's configuration space answer within a second."""
        paths = {address: f"{self._devices}/{address}/config" for address in addresses}
        answers = self.slow_reader.read(paths.values(), size)
        return {address: judge_config(answers[path]) for address, path in paths.items()}

    def with_locked_attributes(self, devices: Iterable[PciDevice]) -> tuple[PciDevice, ...]:
        """*devices* with what the kernel tells only under the device's lock: `driver_override` and `sriov_numvfs`.

        A bind, unbind or reset that does not end holds that lock; such a device is marked `is_locked` after a second
        (Linux, drivers/pci/pci-sysfs.c and drivers/pci/iov.c take device_lock).
        """
        chosen = tuple(devices)
        folders = [f"{self._devices}/{device.address}" for device in chosen]
        names = [f"{folder}/{name}" for folder in folders for name in ("driver_override", "sriov_numvfs")]
        answers = self.slow_reader.read(names, attributes.PAGE_BYTES)
        return tuple(
            attributes.with_locked(device, answers[f"{folder}/driver_override"], answers[f"{folder}/sriov_numvfs"])
            for device, folder in zip(chosen, folders, strict=True)
        )

    def lockdown(self) -> str | None:
        """The kernel lockdown in force (`integrity`, `confidentiality`), None without (kernel_lockdown(7))."""
        try:
            text = attributes.read_text(str(self._sys / "kernel/security/lockdown"))
        except OSError:
            return None
        mode = text.partition("[")[2].partition("]")[0]
        return None if mode in ("", "none") else mode

    def module_parameter(self, module: str, parameter: str) -> str | None:
        """The value of a kernel module's parameter, None where module or parameter is absent."""
        try:
            return attributes.read_text(str(self._sys / "module" / module / "parameters" / parameter))
        except OSError:
            return None

    def resource_path(self, address: PciAddress, bar: int = 0) -> Path:
        """The file through which a BAR of the device is mapped."""
        return Path(self._devices) / str(address) / f"resource{bar}"

    # --- what can be changed

    def session(self, address: PciAddress) -> AbstractContextManager[None]:
        """Let all writes for *address* meanwhile share one child process, which makes several of them quick."""
        return self._writer.session(address)

    def set_driver_override(self, address: PciAddress, driver: str | None) -> None:
        """Let only *driver* bind to the device; None lifts that."""
        self._write(address, self._of(address) / "driver_override", f"{driver or ''}\n")

    def set_d3cold_allowed(self, address: PciAddress, *, allowed: bool) -> None:
        self._write(address, self._of(address) / "d3cold_allowed", str(int(allowed)))

    def keep_awake(self, address: PciAddress) -> None:
        """Keep the device in D0. Only ever raised to `on`: nobody else's choice is undone by us."""
        self._write(address, self._of(address) / "power/control", "on")

    def write_command(self, address: PciAddress, command: int) -> None:
        """Set the PCI command register (configuration space offset 4, 16 bits, little-endian; PCI specification)."""
        path = self._of(address) / "config"
        try:
            self._writer.write_at(address, path, COMMAND_OFFSET, command.to_bytes(2, "little"))
        except OSError as error:
            raise self._refused(address, path, error) from error

    def unbind(self, address: PciAddress, driver: str, timeout_s: float) -> None:
        """Take the device from *driver*. The kernel blocks while somebody uses it."""
        self._write(address, self._pci / "drivers" / driver / "unbind", str(address), timeout_s)

    def bind(self, address: PciAddress, driver: str) -> None:
        """Give the device to *driver*, whose own error is what we are told (`drivers_probe` swallows it)."""
        self._write(address, self._pci / "drivers" / driver / "bind", str(address), BIND_S)

    def probe(self, address: PciAddress) -> None:
        """Let the kernel choose a driver. Succeeds whatever that driver says: read the link back."""
        self._write(address, self._pci / "drivers_probe", str(address), BIND_S)

    def reset(self, address: PciAddress, timeout_s: float) -> None:
        """Reset the function. Blocks while another user of the device holds its lock."""
        self._write(address, self._of(address) / "reset", "1", timeout_s)

    # --- how

    def _of(self, address: PciAddress) -> Path:
        return Path(self._devices) / str(address)

    def _identity(self, address: PciAddress, attribute: str) -> int:
        path = f"{self._devices}/{address}/{attribute}"
        try:
            return attributes.parse_hex(attributes.read_text(path))
        except OSError as error:
            raise self._gone_or(address, f"{attribute} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise DeviceError(address, f"{attribute} makes no sense ({error}): see {path}") from error

    def _write(self, address: PciAddress, path: Path, value: str, timeout_s: float = QUICK_S) -> None:
        try:
            self._writer.write(address, path, value, timeout_s)
        except OSError as error:
            raise self._refused(address, path, error) from error

    def _refused(self, address: PciAddress, path: Path, error: OSError) -> DeviceError:
        """What the kernel's errno means for the person who asked."""
        reason = f"the kernel refused the write to {path}"
        match error.errno:
            case errno.ENOENT | errno.ENODEV | errno.ENXIO:
                return self._gone_or(address, f"{reason} ({error.strerror})")
            case errno.EBUSY:
                return DeviceBusy(address, f"{reason}: it is in use (EBUSY)")
            case errno.EACCES | errno.EPERM:
                lockdown = self.lockdown()
                remedy = f"kernel lockdown ({lockdown}) is in force" if lockdown else "run as root"
                return DeviceError(address, f"{reason} ({error.strerror}): {remedy}")
            case errno.EROFS:
                return DeviceError(
                    address,
                    f"{reason}: /sys is mounted read-only here; mount the host's /sys writable",
                )
            case errno.EINVAL if path.name == "bind":
                return DeviceError(address, f"{reason} (EINVAL): a VFIO driver says so where the IOMMU is off")
            case _:
                return DeviceError(address, f"{reason} ({error.strerror})")

    def _gone_or(self, address: PciAddress, reason: str) -> DeviceError:
        if not self._of(address).exists():
            return DeviceGone(address, "the device left the bus")
        return DeviceError(address, reason)
