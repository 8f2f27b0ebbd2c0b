"""`doctor`: whether this node can give its GPUs to VMs; each check with what was found and the remedy.

Files of /sys and /proc are read and nothing else is done: no device is opened, woken or bound. What cannot be known is
said to be unknown, and is a warning where a VM may not start for it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nodelib.doctor import (
    PRESENT,
    Check,
    check_command_line,
    check_group_types,
    check_interrupts,
    check_iommu,
    check_noiommu_mode,
    check_vfio_modules,
    failed,
    kernel_parameters,
    legible,
    passed,
    warned,
)
from nodelib.errors import NodeError
from nodelib.inventory import Inventory
from nodelib.iommu import viability_problems
from nodelib.modules import KernelModules
from nodelib.node import Node
from nodelib.nvidia import VENDOR_NVIDIA, Kind, is_assignable_kind, kind_of
from nodelib.pci import PciDevice
from nodelib.reading import names_in, start_of
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import Plan

_TOLD_ELSEWHERE = {"no-iommu", "no-iommu-group", "has-vfs", "driver-not-loaded", "foreign-group-member"}
"""Problems of devices that have a check, and a remedy, of their own."""
_PERSISTENCED = "nvidia-persistenced"[:15]
"""/proc shows 15 characters of a command (proc_pid_comm(5))."""
_NEEDED = ("vfio", "vfio_pci", "vfio_pci_core")
_BACK_ENDS = ("vfio_iommu_type1", "iommufd")
_FIGHT_BACK = ("nvidia", "nouveau")
_NO_DRIVER = "no driver"


def examine(node: Node, inventory: Inventory, plan: Plan, choice: DriverChoice) -> tuple[Check, ...]:
    """Every check that has a subject on this node; what *plan* would mend is not wrong."""
    if any(device.vendor == VENDOR_NVIDIA and not device.is_bridge for device in inventory.devices):
        return tuple(_checks(node, inventory, plan, choice))
    unread = (_functions(inventory),) if inventory.faults else ()
    return (*unread, passed("devices", "no NVIDIA device on this node: nothing to do"))


def _checks(node: Node, inventory: Inventory, plan: Plan, choice: DriverChoice) -> Iterator[Check]:
    judged = _judged(inventory, plan)
    groups = sorted({device.iommu_group for device in judged if device.iommu_group is not None})
    has_groups = any(not node.sysfs.iommu_group(number).is_noiommu for number in inventory.group_numbers)
    iommus = sorted(names_in(node.host, "/sys/class/iommu"))
    command_line = start_of(node.host, "/proc/cmdline")
    parameters = None if command_line is None else kernel_parameters(command_line)
    needed = dict.fromkeys((*_NEEDED, *(choice.module_of(device) for device in judged)))
    modules = _module_states(node, (*needed, *_BACK_ENDS, *_FIGHT_BACK))
    drivers = {choice.of(device): modules[choice.module_of(device)] for device in judged}
    drivers |= {name: "loaded" for name in drivers if choice.is_loaded(name)}
    is_noiommu_on = node.sysfs.module_parameter("vfio", "enable_unsafe_noiommu_mode") == "Y"
    yield _functions(inventory)
    yield check_iommu(iommus, parameters or (), start_of(node.host, "/proc/cpuinfo") or "", has_groups=has_groups)
    yield check_command_line(parameters, {name: modules[name] for name in needed}, has_iommu=has_groups or bool(iommus))
    if has_groups or iommus:
        yield _iommu_groups(inventory, judged)
        types = {number: start_of(node.host, f"/sys/kernel/iommu_groups/{number}/type") for number in groups}
        yield check_group_types(iommus, types)
        yield check_interrupts(_interrupt_chips(node), are_unsafe_allowed=_allows_unsafe_interrupts(node))
        yield _sharing(inventory, plan, groups)
    yield check_noiommu_mode(is_on=is_noiommu_on, has_groups=has_groups)
    yield check_vfio_modules(modules)
    yield _vfio_drivers(drivers)
    yield _other_drivers(modules)
    yield _persistence(_commands(node), judged)
    yield _lockdown(start_of(node.host, "/sys/kernel/security/lockdown"))
    yield _virtual_functions(inventory)
    yield _d3cold(judged, plan)
    yield _sys_writable(node.host.root / "sys")
    yield _verdict(judged, inventory, plan, choice, drivers)


# --- platform


def _functions(inventory: Inventory) -> Check:
    if not inventory.faults:
        return passed("functions", f"{len(inventory.devices)} looked at, all could be read")
    known = {str(device.address) for device in inventory.devices}
    text = "; ".join(legible(str(fault), 120) for fault in inventory.faults)
    remedy = "look at /sys/bus/pci/devices; a device that fell off the bus needs a rescan or a reboot"
    is_lost = any(fault.address not in known for fault in inventory.faults)
    return failed("functions", text, remedy) if is_lost else warned("functions", text, remedy)


def _iommu_groups(inventory: Inventory, judged: Sequence[PciDevice]) -> Check:
    if without := [device for device in judged if device.iommu_group is None]:
        return failed("iommu-groups", f"none for {_addresses(without)}", "look for the IOMMU in the kernel log")
    return passed("iommu-groups", f"{len(inventory.group_numbers)} on the node, every GPU is in one")


def _sharing(inventory: Inventory, plan: Plan, groups: Iterable[int]) -> Check:
    """Groups that PCIe Access Control Services (ACS) divide too coarsely."""
    refused = {refusal.address for refusal in plan.refusals}
    found, blocking = [], []
    for number in groups:
        members = [d for d in inventory.devices if d.iommu_group == number and not d.is_bridge]
        foreign = [device for device in members if kind_of(device) is Kind.FOREIGN]
        if foreign or sum(map(is_assignable_kind, members)) > 1:
            found.append(f"group {number} is {', '.join(f'{d.address} on {d.driver or _NO_DRIVER}' for d in members)}")
        blocking += [str(device.address) for device in foreign if device.address in refused]
    text = f"too coarse (ACS): {'; '.join(found)}"
    acs = "switch ACS on in the firmware or move a card to another root port"
    if blocking:
        allow = " ".join(f"--allow-group-member {address}" for address in blocking)
        return failed("sharing", text, f"free the foreign devices by hand or add {allow}; or {acs}")
    if found:
        return warned("sharing", text, f"they go to one VM together; for single ones {acs}")
    return passed("sharing", "no GPU shares its IOMMU group with anything foreign")


# --- kernel


def _vfio_drivers(states: Mapping[str, str]) -> Check:
    text = ", ".join(f"{name} {state}" for name, state in sorted(states.items())) or "no device needs one"
    if absent := " ".join(sorted(name for name, state in states.items() if state == "absent")):
        return failed("vfio-driver", text, f"boot a kernel that has {absent}, or name another with --driver")
    if unknown := " ".join(sorted(name for name, state in states.items() if state == "unknown")):
        return warned("vfio-driver", text, f"run: modprobe -a {unknown}")
    return passed("vfio-driver", text)


def _other_drivers(modules: Mapping[str, str]) -> Check:
    if not (loaded := [name for name in _FIGHT_BACK if modules[name] in PRESENT]):
        return passed("other-drivers", "neither nvidia nor nouveau is loaded")
    names = " and ".join(loaded)
    text = f"{names} loaded: takes GPUs that are plugged in or released"
    return warned("other-drivers", text, f"blacklist {names} in modprobe.d, unless the host itself uses GPUs")


def _persistence(commands: frozenset[str], judged: Iterable[PciDevice]) -> Check:
    if _PERSISTENCED not in commands:
        if "kthreadd" in commands:  # which every host has, and no container's own /proc
            return passed("persistence", "no nvidia-persistenced in /proc")
        remedy = "mount the host's /proc under --host-root, and share its process ids (hostPID)"
        return warned("persistence", "unknown: the host's processes are not to be seen", remedy)
    remedy = "run: systemctl disable --now nvidia-persistenced"
    if held := [device for device in judged if device.driver == "nvidia"]:
        return failed("persistence", f"nvidia-persistenced would make unbinding hang: {_addresses(held)}", remedy)
    return warned("persistence", "nvidia-persistenced runs, though no GPU here is for it", remedy)


def _lockdown(text: str | None) -> Check:
    """Binding is not restricted by it; mapping BAR0 and writing `config` are (facts/fsp-and-cc-mode.md, section 5)."""
    if text is None:
        return passed("lockdown", "unknown here; it does not keep VFIO from working")
    mode = legible(text.partition("[")[2].partition("]")[0], 20)
    if mode == "none":
        return passed("lockdown", "none")
    found = f"{mode or 'makes no sense'}: VFIO works, but cc-manager cannot change modes"
    return warned("lockdown", found, "switch Secure Boot off in the firmware, if modes are to be changed here")


# --- devices


def _virtual_functions(inventory: Inventory) -> Check:
    if not (with_vfs := [device for device in inventory.devices if device.vf_count]):
        return passed("sr-iov", "no virtual functions are on")
    text = f"virtual functions are on for {_addresses(with_vfs)}, which is left alone"
    return failed("sr-iov", text, f"write 0 to /sys/bus/pci/devices/{with_vfs[0].address}/sriov_numvfs")


def _d3cold(judged: Sequence[PciDevice], plan: Plan) -> Check:
    """Some GPUs do not come back from it. facts/field-problems.md, row 20."""
    if cold := [device for device in judged if device.power_state == "D3cold"]:
        remedy = "write `on` to power/control of it and of its port; if it stays cold, reboot"
        return failed("d3cold", f"without power: {_addresses(cold)}", remedy)
    allowed = [device for device in judged if device.d3cold_allowed]
    planned = {device.address for device in plan.devices}
    # Bound and not in the plan: a VM has it, and nothing of it is touched.
    if left := [device for device in allowed if device.address not in planned and device.is_on_vfio_driver]:
        remedy = "nothing now: `vfio-manager run` or `bind` forbids it when its VM has ended"
        return warned("d3cold", f"allowed while in use: {_addresses(left)}", remedy)
    return passed("d3cold", f"allowed for {len(allowed)}, `bind` forbids it" if allowed else "forbidden")


def _sys_writable(sys: Path) -> Check:
    try:
        is_read_only = bool(os.statvfs(sys).f_flag & os.ST_RDONLY)
    except OSError as error:
        return failed("sys-writable", f"/sys cannot be looked at ({error.strerror})", "mount the host's /sys")
    if is_read_only:
        return failed("sys-writable", "/sys is mounted read-only here", "mount the host's /sys writable")
    if not os.access(sys / "bus/pci/drivers_probe", os.W_OK):
        return failed("sys-writable", "no right to write /sys/bus/pci/drivers_probe", "run as root")
    return passed("sys-writable", "yes")


def _judged(inventory: Inventory, plan: Plan) -> tuple[PciDevice, ...]:
    """The GPUs and NVSwitches that are to be on a VFIO driver; not those that a setting leaves out."""
    concerned = {device.address for device in plan.devices} | {refusal.address for refusal in plan.refusals}
    assignable = (device for device in inventory.devices if is_assignable_kind(device))
    return tuple(device for device in assignable if device.is_on_vfio_driver or device.address in concerned)


def _verdict(
    judged: Sequence[PciDevice], inventory: Inventory, plan: Plan, choice: DriverChoice, drivers: Mapping[str, str]
) -> Check:
    """Each device as it would be after `bind`, by its group: one member that stays behind holds up all."""
    planned = {device.address for device in plan.devices}
    after = {d.address: replace(d, driver=choice.of(d)) if d.address in planned else d for d in inventory.devices}
    stuck, remedies = [], []
    for device in judged:
        group = inventory.group(device.iommu_group)
        members = {device.address, *(group.members if group else ())}
        problems = [refusal.problem for refusal in plan.refusals if refusal.address in members]
        problems = problems or list(viability_problems(group, after) if group else ())
        if problems or (device.address in planned and drivers[choice.of(device)] == "absent"):
            stuck.append(device)
            remedies += [p.remedy for p in problems if p.remedy and p.code not in _TOLD_ELSEWHERE]
    if stuck:
        text = f"{len(stuck)} of {len(judged)} cannot be given to a VM: {_addresses(stuck)}"
        return failed("devices", text, "; ".join(dict.fromkeys(remedies)) or "mend what the other checks name")
    to_bind = sum(device.address in planned and not device.is_on_vfio_driver for device in judged)
    after_bind = f", {to_bind} after `vfio-manager bind`" if to_bind else ""
    return passed("devices", f"{len(judged)} of {len(judged)} can be given to VMs{after_bind}")


def _addresses(devices: Iterable[PciDevice]) -> str:
    return ", ".join(str(device.address) for device in devices)


# --- reading


def _module_states(node: Node, names: Iterable[str]) -> dict[str, str]:
    modules = KernelModules(node.host, node.modprobe)
    return {name: _module_state(modules, name) for name in names}


def _module_state(modules: KernelModules, name: str) -> str:
    states = {"loaded": modules.is_loaded, "built in": modules.is_builtin, "loadable": modules.is_present}
    otherwise = "absent"
    for state, is_so in states.items():
        try:
            if is_so(name):
                return state
        except (NodeError, OSError, ValueError):  # ValueError: a release with a null byte is no path
            otherwise = "unknown"
    return otherwise


def _commands(node: Node) -> frozenset[str]:
    return frozenset(
        start_of(node.host, f"/proc/{name}/comm") or "" for name in names_in(node.host, "/proc") if name.isdigit()
    )


def _interrupt_chips(node: Node) -> Iterator[str]:
    return (
        start_of(node.host, f"/sys/kernel/irq/{irq}/chip_name") or "" for irq in names_in(node.host, "/sys/kernel/irq")
    )


def _allows_unsafe_interrupts(node: Node) -> bool:
    modules = ("vfio_iommu_type1", "iommufd")
    return any(node.sysfs.module_parameter(module, "allow_unsafe_interrupts") == "Y" for module in modules)
