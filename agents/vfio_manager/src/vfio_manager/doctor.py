"""`doctor`: whether this node can give its GPUs to VMs; each check with what was found and the remedy.

The node is only read, files of /sys and /proc alone: nothing is opened, woken or loaded. What is not known is said to
be unknown, and is a warning where a VM may fail to start for it.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from nodelib.doctor import Check, failed, kernel_parameters, legible, module_names, passed, warned
from nodelib.errors import InvalidValue
from nodelib.inventory import Inventory
from nodelib.iommu import viability_problems
from nodelib.node import Node
from nodelib.nvidia import VENDOR_NVIDIA, Kind, is_assignable_kind, kind_of
from nodelib.pci import PciAddress, PciDevice
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import Plan

_TOLD_ELSEWHERE = {"no-iommu", "no-iommu-group", "has-vfs", "driver-not-loaded", "foreign-group-member"}
"""Problems of devices that have a check, and a remedy, of their own."""
_PERSISTENCED = "nvidia-persistenced"[:15]
"""/proc shows 15 characters of a command (proc_pid_comm(5))."""
_PARAMETERS = ("iommu", "intel_iommu", "amd_iommu", "iommu.passthrough", "module_blacklist", "modprobe.blacklist")
_START_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Facts:
    """What the checks need to know of the node beside its devices; None: it could not be read."""

    iommus: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...] | None
    """Of the kernel's command line."""
    cpu: str
    """The first processor in /proc/cpuinfo."""
    interrupt_chips: frozenset[str]
    unsafe_interrupts: bool
    noiommu_mode: bool
    release: str
    loaded: frozenset[str]
    built_in: frozenset[str] | None
    loadable: frozenset[str] | None
    lockdown: str | None
    commands: frozenset[str] | None
    """Of all processes."""
    sys_is_read_only: bool
    sys_is_writable: bool

    def module_state(self, module: str) -> str:
        """`loaded`, `built in`, `loadable`, `absent` or `unknown`."""
        name = module.replace("-", "_")
        for state, names in (("loaded", self.loaded), ("built in", self.built_in), ("loadable", self.loadable)):
            if names is not None and name in names:
                return state
        return "unknown" if self.built_in is None or self.loadable is None else "absent"

    def value_of(self, *names: str) -> set[str]:
        """All values, divided at commas, that the command line gives these parameters."""
        return {part for name, value in self.parameters or () if name in names for part in value.split(",")}


def examine(node: Node, inventory: Inventory, plan: Plan, choice: DriverChoice) -> tuple[Check, ...]:
    """Every check that has a subject here; where *plan* would mend something it is not wrong."""
    if not any(device.vendor == VENDOR_NVIDIA and not device.is_bridge for device in inventory.devices):
        return (_readable(inventory), passed("devices", "no NVIDIA device on this node: nothing to do"))
    facts = look(node, choice)
    return tuple(_checks(node, facts, inventory, plan, choice))


def _checks(node: Node, facts: Facts, inventory: Inventory, plan: Plan, choice: DriverChoice) -> Iterator[Check]:
    judged = _judged(inventory, plan)
    has_groups = any(not node.sysfs.iommu_group(number).is_noiommu for number in sorted(inventory.group_numbers))
    groups = sorted({device.iommu_group for device in judged if device.iommu_group is not None})
    yield _readable(inventory)
    yield _iommu(facts, has_groups)
    yield _command_line(facts, has_groups)
    if has_groups or facts.iommus:
        yield _iommu_groups(inventory, judged)
        yield _group_types(facts, {number: _group_type(node, number) for number in groups})
        yield _interrupts(facts)
        yield _sharing(inventory, plan, groups)
    yield _noiommu_mode(facts, has_groups)
    yield _vfio_modules(facts)
    yield _vfio_drivers(facts, sorted({choice.of(device) for device in judged}), choice)
    yield _other_drivers(facts)
    yield _persistence(facts, inventory)
    yield _lockdown(facts)
    yield _virtual_functions(inventory)
    yield _d3cold(judged, plan)
    yield _sys_writable(facts)
    yield _verdict(judged, inventory, plan, choice)


# --- platform


def _readable(inventory: Inventory) -> Check:
    count = sum(device.vendor == VENDOR_NVIDIA for device in inventory.devices)
    if not inventory.faults:
        return passed("sysfs-devices", f"all {count} NVIDIA functions could be read")
    known = {str(device.address) for device in inventory.devices}
    text = "; ".join(legible(str(fault), 120) for fault in inventory.faults)
    remedy = "look at /sys/bus/pci/devices; a device that fell off the bus needs a rescan or a reboot"
    lost = [fault for fault in inventory.faults if fault.address not in known]
    return failed("sysfs-devices", text, remedy) if lost else warned("sysfs-devices", text, remedy)


def _iommu(facts: Facts, has_groups: bool) -> Check:
    if facts.iommus:
        units = f"{len(facts.iommus)} unit{'s' if len(facts.iommus) > 1 else ''}"
        return passed("iommu", f"on: {', '.join(iommu_kinds(facts.iommus))}, {units}")
    if has_groups:
        return warned(
            "iommu",
            "on by its groups, but /sys/class/iommu does not tell its kind",
            "nothing needs doing if VMs start; else see the kernel log for the IOMMU",
        )
    if _switched_off(facts):
        remedy = "see command-line"
    elif "hypervisor" in facts.cpu.split():
        remedy = "this is a virtual machine: give it a virtual IOMMU, or give the GPUs away on its host"
    elif "GenuineIntel" in facts.cpu:
        remedy = "switch VT-d on in the firmware and boot with intel_iommu=on"
    elif "AuthenticAMD" in facts.cpu:
        remedy = "switch the IOMMU (AMD-Vi) on in the firmware and reboot"
    else:
        remedy = "switch the IOMMU on in the firmware and reboot"
    return failed("iommu", "there is none, or it is off: a VFIO driver refuses every device (EINVAL)", remedy)


def _switched_off(facts: Facts) -> list[str]:
    names = ("iommu", "intel_iommu", "amd_iommu")
    return [f"{name}={value}" for name, value in facts.parameters or () if name in names and "off" in value.split(",")]


def _command_line(facts: Facts, has_groups: bool) -> Check:
    if facts.parameters is None:
        return warned("command-line", "/proc/cmdline cannot be read", "mount the host's /proc under --host-root")
    said = [f"{n}={v}" for n, v in facts.parameters if n in _PARAMETERS or n.startswith(("vfio", "iommufd"))]
    if not has_groups and not facts.iommus and (off := _switched_off(facts)):
        return failed("command-line", f"switches the IOMMU off: {' '.join(off)}", "remove that and reboot")
    missing = {name for name in facts.value_of("module_blacklist") if facts.module_state(name) not in _PRESENT}
    if blocked := sorted(name for name in missing if "vfio" in name or name == "iommufd"):
        text = f"the kernel refuses to load {', '.join(map(legible, blocked))} (module_blacklist)"
        return failed("command-line", text, "remove them from module_blacklist and reboot")
    return passed("command-line", legible(" ".join(said), 300) or "nothing on IOMMU or VFIO: the kernel's defaults")


def _iommu_groups(inventory: Inventory, judged: Iterable[PciDevice]) -> Check:
    if without := [device for device in judged if device.iommu_group is None]:
        return failed("iommu-groups", f"no group for {_names(without)}", "see the kernel log for the IOMMU's reason")
    return passed("iommu-groups", f"{len(inventory.group_numbers)} on this node, every GPU is in one")


def _group_types(facts: Facts, types: dict[int, str | None]) -> Check:
    """What the host's own drivers get; VFIO replaces it by a domain of the VM's."""
    found = ", ".join(sorted({legible(text, 20) for text in types.values() if text})) or "unknown on this kernel"
    odd = [number for number, text in types.items() if text not in (None, "DMA", "DMA-FQ", "identity")]
    if odd:
        return warned("group-type", found, f"look at /sys/kernel/iommu_groups/{odd[0]}/type and the kernel log")
    if "identity" in types.values() and "AMD-Vi" in iommu_kinds(facts.iommus):
        # Linux, drivers/iommu/amd/init.c, iommu_snp_enable: no SEV-SNP where passthrough is the default.
        text = "identity (passthrough), with which the kernel switches SEV-SNP off"
        return warned("group-type", text, "for confidential VMs boot without iommu=pt, or with iommu.passthrough=0")
    return passed("group-type", found)


def _interrupts(facts: Facts) -> Check:
    """Without remapping VFIO refuses (EPERM; Linux, drivers/vfio/vfio_iommu_type1.c, vfio_iommu_type1_attach_group)."""
    is_remapped = remaps_interrupts(facts.interrupt_chips)
    firmware = "switch interrupt remapping on in the firmware, and boot without intremap=off and nointremap"
    match is_remapped, facts.unsafe_interrupts:
        case True, False:
            return passed("interrupts", "remapped by the IOMMU")
        case None, _:
            remedy = "look in the kernel log for DMAR-IR, or AMD-Vi: Interrupt remapping enabled"
            return warned("interrupts", "unknown: /sys/kernel/irq does not tell whether they are remapped", remedy)
        case True, True:
            return warned("interrupts", "remapped, yet allow_unsafe_interrupts is on", "set it to N: it is not needed")
        case _, True:
            return warned("interrupts", "not remapped but allowed: a VM can forge the host's interrupts", firmware)
    return failed("interrupts", "not remapped: VFIO refuses to start a VM (EPERM)", firmware)


def _sharing(inventory: Inventory, plan: Plan, groups: Iterable[int]) -> Check:
    """Groups that PCIe Access Control Services (ACS) do not divide finely enough."""
    found, blocking = [], []
    refused = {refusal.address for refusal in plan.refusals}
    for number in groups:
        members = [d for d in inventory.devices if d.iommu_group == number and not d.is_bridge]
        foreign = [device for device in members if kind_of(device) is Kind.FOREIGN]
        if foreign or sum(map(is_assignable_kind, members)) > 1:
            found.append(f"group {number}: {', '.join(f'{d.address} ({d.driver or "no driver"})' for d in members)}")
        blocking += [device for device in foreign if device.address in refused]
