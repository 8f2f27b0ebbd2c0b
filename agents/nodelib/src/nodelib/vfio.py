"""The contract between the agents: which devices can be given to a VM, under which names and nodes.

kata-manager and device-plugin derive everything from `assignable_devices`; what they publish can therefore not
differ, and a pod's device id always resolves to the device that the kubelet meant.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from nodelib import health
from nodelib.inventory import Inventory
from nodelib.iommu import IommuGroup, viability_problems
from nodelib.names import NVIDIA_DOMAIN, ResourceName, model_alias
from nodelib.nvidia import Kind, is_assignable_kind, kind_of, nvlink_fabric
from nodelib.pci import PciAddress, PciDevice
from nodelib.problem import Problem

VFIO_CONTAINER_NODE = "/dev/vfio/vfio"
TRANSIENT_CODES = frozenset({"config-hung", "config-gone", "config-unreadable"})
"""Problems that come and go while the device's names and nodes stay as they are."""


class VfioMode(Enum):
    """Which of the kernel's two VFIO interfaces is handed out."""

    AUTO = "auto"  # the device's cdev if it has one, else its group: decided for each device
    IOMMUFD = "iommufd"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class Naming:
    """The settings that names and nodes depend on; both agents must be given the same."""

    gpu_alias: str = "pgpu"
    """Empty: one resource per model."""
    nvswitch_alias: str = "nvswitch"
    vfio_mode: VfioMode = VfioMode.AUTO


@dataclass(frozen=True, slots=True)
class AssignableDevice:
    """One IOMMU group that holds a GPU or an NVSwitch: what the kubelet counts and a pod is given."""

    id: str
    """The group's number: the kubelet's device id and the CDI device name."""
    resource: ResourceName
    functions: tuple[PciDevice, ...]
    """Its GPUs and NVSwitches; companions ride along uncounted."""
    further_names: tuple[str, ...]
    """Other CDI names of the same device."""
    spec_nodes: tuple[str, ...]
    """Host paths that its CDI entry lists: Kata plugs each of them as a device of its own."""
    allocate_nodes: tuple[str, ...]
    """Host paths that Allocate answers with."""
    numa_node: int | None
    pcie_root: str | None
    """The root bus of its first function, as sysfs names it (`pci0000:15`); None where that is not to be seen."""
    fabric: int | None
    """GPUs with the same number are connected by NVLink, as far as PCI can tell; None: by PCIe alone."""
    in_use: bool
    problems: tuple[Problem, ...]
    """Why it is not healthy; empty if it is."""

    @property
    def is_healthy(self) -> bool:
        return not self.problems

    @property
    def is_resolvable(self) -> bool:
        """Whether its nodes are there, so that a spec may list it; a device that is only resetting stays listed."""
        return all(problem.code in TRANSIENT_CODES for problem in self.problems)

    @property
    def addresses(self) -> tuple[PciAddress, ...]:
        return tuple(function.address for function in self.functions)


def assignable_devices(inventory: Inventory, naming: Naming) -> tuple[AssignableDevice, ...]:
    """Every IOMMU group with a GPU or NVSwitch as a device to be given away, ordered by group number.

    All of them, healthy or not, in use or not: capacity must not shrink because a pod runs.
    """
    known = _Known(inventory)  # once for all groups: a node can have hundreds
    found = (_device_of_group(group, inventory, naming, known) for group in inventory.groups)
    here = [device for device in found if device is not None]
    devices = (*here, *_absent_devices(inventory, naming, {device.id for device in here}))
    return _without_collisions(sorted(devices, key=lambda device: int(device.id)), _taken_names(inventory))


def without_group(inventory: Inventory) -> tuple[tuple[PciDevice, Problem], ...]:
    """GPUs and NVSwitches that can never be given away as the node stands, with the reason."""
    problem = Problem(
        "no-iommu",
        "it is in no IOMMU group, so no virtual machine can be given it",
        "switch the IOMMU on in the firmware, and on Intel boot with intel_iommu=on "
        "(inside a virtual machine: the VM needs a virtual IOMMU)",
    )
    return tuple(
        (device, problem) for device in inventory.devices if is_assignable_kind(device) and device.iommu_group is None
    )


def resource_of(functions: Sequence[PciDevice], naming: Naming) -> ResourceName:
    """The resource of a group with these GPUs and NVSwitches; a GPU decides if there is one."""
    chosen = next((f for f in functions if kind_of(f) is Kind.GPU), functions[0])
    if kind_of(chosen) is Kind.GPU:
        alias = naming.gpu_alias or model_alias(chosen.name, chosen.device, "GPU")
    else:
        alias = naming.nvswitch_alias or model_alias(chosen.name, chosen.device, "NVSWITCH")
    return ResourceName.parse(f"{NVIDIA_DOMAIN}/{alias}")


def uses_cdev(functions: Iterable[PciDevice], mode: VfioMode) -> bool:
    """Whether a group is handed out by device cdevs; decided per device, never by the mere existence of /dev/iommu."""
    match mode:
        case VfioMode.LEGACY:
            return False
        case VfioMode.IOMMUFD:
            return True
        case VfioMode.AUTO:
            return all(function.vfio_cdev for function in functions)


class _Known:
    """What every device's account needs of the whole node."""

    def __init__(self, inventory: Inventory) -> None:
        self.devices = inventory.by_address
        self.indices = _physical_indices(inventory)
        self.has_switches = bool(inventory.nvswitches)


def _device_of_group(group: IommuGroup, inventory: Inventory, naming: Naming, known: _Known) -> AssignableDevice | None:
    members = tuple(known.devices[address] for address in group.members if address in known.devices)
    functions = tuple(member for member in members if is_assignable_kind(member))
    if not functions:
        return None  # only virtual functions or companions of a GPU that sits in another group
    cdevs = uses_cdev(functions, naming.vfio_mode)
    group_node = f"/dev/vfio/{group.number}"
    cdev_nodes = tuple(f"/dev/vfio/devices/{function.vfio_cdev}" for function in functions if function.vfio_cdev)
    return AssignableDevice(
        id=str(group.number),
        resource=resource_of(functions, naming),
        functions=functions,
        further_names=_further_names(functions, known.indices, with_cdevs=cdevs),
        spec_nodes=cdev_nodes if cdevs else (group_node,),
        allocate_nodes=cdev_nodes if cdevs else (VFIO_CONTAINER_NODE, group_node),
        numa_node=next((f.numa_node for f in functions if f.numa_node is not None), None),
        pcie_root=functions[0].pcie_root,
        fabric=nvlink_fabric(functions[0], has_switches=known.has_switches),
        in_use=any(member.is_open for member in members),
        problems=(
            *viability_problems(group, known.devices),
            *health.missing_functions(group.number, inventory),
            *health.node_problems(group.number, functions, inventory, cdevs=cdevs),
            *(problem for member in members if (problem := health.config_problem(member, inventory))),
        ),
    )


def _further_names(
    functions: Iterable[PciDevice], indices: dict[PciAddress, int], *, with_cdevs: bool
) -> tuple[str, ...]:
    names: list[str] = []
    for function in functions:
        if with_cdevs and function.vfio_cdev:
            names.append(function.vfio_cdev)
        names.append(str(function.address))
        if function.address in indices:
            names.append(str(indices[function.address]))
    return tuple(names)


def _physical_indices(inventory: Inventory) -> dict[PciAddress, int]:
    """Each GPU's position among all of the node's, absent and unbound ones counted, so that no position moves."""
    gpus = {d.address for d in (*inventory.devices, *inventory.absent) if kind_of(d) is Kind.GPU}
    known = {str(device.address) for device in inventory.devices}
    # What cannot be read may be a GPU: then nobody knows the positions of those behind it.
    unread = min((fault.address for fault in inventory.faults if fault.address not in known), default=None)
    positions = {address: index for index, address in enumerate(sorted(gpus))}
    return {address: index for address, index in positions.items() if unread is None or str(address) < unread}


def _taken_names(inventory: Inventory) -> frozenset[str]:
    """Group numbers, here or gone, and the cdevs of devices that are gone (a rebind may hand N of vfioN out again)."""
    gone = {device.iommu_group for device in inventory.absent if device.iommu_group is not None}
    cdevs = (device.vfio_cdev for device in inventory.absent if device.vfio_cdev)
    return frozenset((*(str(number) for number in inventory.group_numbers | gone), *cdevs))


def _without_collisions(devices: Iterable[AssignableDevice], taken: frozenset[str]) -> tuple[AssignableDevice, ...]:
    """*devices* without the further names that could be mistaken for another device.

    A further name that equals any group number of the node would let a restarting pod resolve its old id to
    somebody else's GPU; one that two devices share would make the whole spec invalid.
    """
    devices = tuple(devices)
    uses = Counter((device.resource, name) for device in devices for name in device.further_names)
    return tuple(
        replace(
            device,
            further_names=tuple(
                name for name in device.further_names if name not in taken and uses[device.resource, name] == 1
            ),
        )
        for device in devices
    )


def _absent_devices(inventory: Inventory, naming: Naming, here: Collection[str]) -> list[AssignableDevice]:
    """Devices all of whose GPUs and NVSwitches are gone; a companion may be left in the group."""
    gone: dict[int, list[PciDevice]] = {}
    for device in inventory.absent:
        if device.iommu_group is not None and str(device.iommu_group) not in here:
            gone.setdefault(device.iommu_group, []).append(device)
    return [
        AssignableDevice(
            id=str(number),
            resource=resource_of(functions, naming),
            functions=tuple(functions),
            further_names=(),
            spec_nodes=(),
            allocate_nodes=(),
            numa_node=next((f.numa_node for f in functions if f.numa_node is not None), None),
            pcie_root=functions[0].pcie_root,
            fabric=None,
            in_use=False,
            problems=tuple(health.gone(function) for function in functions),
        )
        for number, functions in gone.items()
    ]
