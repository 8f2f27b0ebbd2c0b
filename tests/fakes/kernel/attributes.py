"""The attributes that a PCI function shows in sysfs: those that tell an agent something.

Names and modes: Linux, Documentation/ABI/testing/sysfs-bus-pci, and the captured tree in tests/data.
"""

from tests.fakes.kernel.drivers import Driver
from tests.fakes.kernel.hardware import Hardware, bar_address, config_space
from tests.fakes.kernel.tree import Entry, File, Link


def uevent_text(hardware: Hardware, driver: str | None) -> str:
    """What the `uevent` attribute reads."""
    subsystem_vendor, subsystem_device = hardware.subsystem
    lines = [f"DRIVER={driver}"] if driver else []
    lines += [
        f"PCI_CLASS={hardware.pci_class:X}",
        f"PCI_ID={hardware.vendor:04X}:{hardware.device:04X}",
        f"PCI_SUBSYS_ID={subsystem_vendor:04X}:{subsystem_device:04X}",
        f"PCI_SLOT_NAME={hardware.address}",
        f"MODALIAS={hardware.modalias}",
    ]
    return "\n".join(lines) + "\n"


def entries_of(hardware: Hardware, system: Link, driver: Driver | None) -> dict[str, Entry]:
    """The function's folder, as it looks on *driver*, without the links to other places.

    A VFIO driver has yet to make its own entries.
    """
    is_enabled = driver is not None and not driver.is_vfio
    subsystem_vendor, subsystem_device = hardware.subsystem
    read_only = {
        "vendor": f"0x{hardware.vendor:04x}",
        "device": f"0x{hardware.device:04x}",
        "class": f"0x{hardware.pci_class:06x}",
        "subsystem_vendor": f"0x{subsystem_vendor:04x}",
        "subsystem_device": f"0x{subsystem_device:04x}",
        "revision": f"0x{hardware.revision:02x}",
        "modalias": hardware.modalias,
        "resource": _resource_text(hardware),
        "power_state": "D0",
        "power/runtime_status": "active",
    }
    read_write = {
        "driver_override": "(null)",
        "enable": str(int(is_enabled)),
        "power/control": "on",
    }
    if hardware.numa_node is not None:
        read_write["numa_node"] = str(hardware.numa_node)
    if hardware.d3cold_allowed is not None:
        read_write["d3cold_allowed"] = str(int(hardware.d3cold_allowed))
    if hardware.vf_total is not None:
        read_only["sriov_totalvfs"] = str(hardware.vf_total)
        read_write["sriov_numvfs"] = str(hardware.vf_count)
    entries: dict[str, Entry] = {name: File(f"{text}\n".encode(), 0o444) for name, text in read_only.items()}
    entries |= {name: File(f"{text}\n".encode(), 0o644) for name, text in read_write.items()}
    entries |= {f"resource{number}": File(b"", 0o600) for number, _ in hardware.bars}
    entries |= {"remove": File(b"", 0o220), "subsystem": system}
    entries["uevent"] = File(uevent_text(hardware, driver.name if driver else None).encode())
    entries["config"] = File(config_space(hardware, is_enabled=is_enabled))
    if hardware.can_reset:
        # The attribute is hidden where no reset method works (Linux, drivers/pci/pci.c, pci_dev_reset_attr_is_visible).
        entries["reset"] = File(b"", 0o200)
    return entries


def _resource_text(hardware: Hardware) -> str:
    lines = ["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * 7
    for number, size in hardware.bars:
        start = bar_address(hardware, number, size)
        lines[number] = f"0x{start:016x} 0x{start + size - 1:016x} 0x000000000014220c"
    return "\n".join(lines)
