"""Why an assignable device is not healthy: each reason with what to do about it."""

from collections.abc import Iterable

from nodelib.inventory import Inventory
from nodelib.iommu import blocks_group
from nodelib.pci import ConfigState, PciDevice
from nodelib.problem import Problem


def missing_functions(number: int, inventory: Inventory) -> tuple[Problem, ...]:
    """GPUs and NVSwitches that group *number* had in an earlier look and has no more."""
    return tuple(gone(device) for device in inventory.absent if device.iommu_group == number)


def gone(device: PciDevice) -> Problem:
    """What is said of a device that was there and is not."""
    return Problem(
        "absent",
        f"{device.address} left the bus",
        "look for Xid 79 in the kernel log; put it back, or restart this agent once it is gone for good",
    )


def node_problems(number: int, functions: Iterable[PciDevice], inventory: Inventory, *, cdevs: bool) -> list[Problem]:
    """What keeps the device nodes from being there: no VFIO driver, no cdev, no file in the host's /dev."""
    unbound = [function for function in functions if not function.is_on_vfio_driver]
    if unbound:
        return [
            Problem(
                "not-bound",
                f"{function.address} {f'is on {function.driver}' if function.driver else 'has no driver'}, "
                "and must be on a VFIO driver",
                f"run: vfio-manager bind --device {function.address}",
            )
            for function in unbound
            if not blocks_group(function)  # a driver that blocks the group is named by its viability already
        ]
    if cdevs:
        problems = [_no_cdev(function) for function in functions if function.vfio_cdev is None]
        names = [f"devices/{function.vfio_cdev}" for function in functions if function.vfio_cdev]
    else:
        names = [str(number)]
        problems = [_no_group_node(number)] if number not in inventory.vfio_groups else []
    if problems or inventory.dev_vfio is None:
        return problems
    return [
        Problem(
            "no-node-file",
            f"/dev/vfio/{name} is missing on the host",
            "look at the host's udev or devtmpfs",
        )
        for name in names
        if name not in inventory.dev_vfio
    ]


def _no_cdev(function: PciDevice) -> Problem:
    return Problem(
        "no-cdev",
        f"{function.address} has no VFIO device node",
        "use a kernel with CONFIG_VFIO_DEVICE_CDEV, or set the VFIO mode to auto or legacy",
    )


def _no_group_node(number: int) -> Problem:
    return Problem(
        "no-group-node",
        f"the kernel shows no VFIO node for IOMMU group {number}",
        "use a kernel with CONFIG_VFIO_GROUP, or set the VFIO mode to auto or iommufd",
    )


def config_problem(device: PciDevice, inventory: Inventory) -> Problem | None:
    """What is wrong with *device* by its configuration space; None if it answers or was not asked."""
    match inventory.config.get(device.address, ConfigState.UNREAD):
        case ConfigState.GONE:
            return Problem(
                "config-gone",
                f"{device.address} does not answer any more (its configuration space reads as all ones)",
                "look for Xid 79 in the kernel log; reset or re-seat the GPU",
            )
        case ConfigState.HUNG:
            return Problem("config-hung", f"{device.address} is resetting or hung", "")
        case ConfigState.UNREADABLE:
            return Problem(
                "config-unreadable",
                f"the configuration space of {device.address} cannot be read",
                f"look at /sys/bus/pci/devices/{device.address}/config",
            )
        case _:
            return None
