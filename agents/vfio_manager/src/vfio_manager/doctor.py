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

_IOMMU_KINDS = {"dmar": "Intel VT-d", "ivhd": "AMD-Vi", "smmu3": "Arm SMMUv3", "smmu": "Arm SMMU", "virtio": "virtio"}
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
    groups = {number: _group_type(node, number) for number in sorted(_groups_of_gpus(inventory))}
    has_iommu = any(not node.sysfs.iommu_group(number).is_noiommu for number in sorted(inventory.group_numbers))
    judged = _judged(inventory, plan)
    yield _readable(inventory)
    yield _iommu(facts, has_iommu)
    yield _iommu_groups(inventory)
    yield _command_line(facts, has_iommu)
    if has_iommu and groups:
        yield _group_types(facts, groups)
        yield _interrupts(facts)
        yield _isolation(inventory, plan)
    yield _noiommu_mode(facts, has_iommu)
    yield _vfio_modules(facts)
    yield _vfio_drivers(facts, {choice.of(device) for device in judged}, choice)
    yield _other_drivers(facts)
    yield _persistence(facts, inventory)
    yield _lockdown(facts)
    yield _virtual_functions(inventory)
    yield _d3cold(inventory, plan)
    yield _sys_writable(facts)
    yield _verdict(judged, inventory, plan, choice)
