"""What this node has to advertise: the contract's devices by resource, and those that a CDI rule holds back."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nodelib.names import ResourceName
from nodelib.problem import Problem
from nodelib.vfio import AssignableDevice

Devices = tuple[AssignableDevice, ...]


def by_resource(devices: Iterable[AssignableDevice]) -> dict[ResourceName, Devices]:
    """*devices* under the resource that each is counted in, sorted by name; a resource without any is not there."""
    found: dict[ResourceName, list[AssignableDevice]] = {}
    for device in devices:
        found.setdefault(device.resource, []).append(device)
    return {resource: tuple(found[resource]) for resource in sorted(found)}


def hold_back(
    devices: Iterable[AssignableDevice], nodes: Mapping[str, tuple[str, ...]], problems: Iterable[Problem] = ()
) -> Devices:
    """*devices*, with a reason on each that Kata could not attach by its CDI name.

    *nodes* is what the names resolve to. *problems* stop every device: Kata refuses each pod with a CDI device while
    any one spec file is broken or in conflict (facts: CDI). What lacks its device nodes can have no name yet, and is
    left with its own reason.
    """
    common = tuple(problems)
    return tuple(
        replace(device, problems=(*device.problems, *_unresolved(device, nodes), *common))
        if device.is_resolvable
        else device
        for device in devices
    )


def _unresolved(device: AssignableDevice, nodes: Mapping[str, tuple[str, ...]]) -> tuple[Problem, ...]:
    name = f"{device.resource.cdi_kind}={device.id}"
    resolved = nodes.get(name)
    if resolved is None:
        return (
            Problem(
                "cdi-unresolved",
                f"no CDI spec has the name {name}",
                "look at kata-manager, which writes it; without kata-manager run with --cdi write",
            ),
        )
    # A cdev's number changes when its device is bound again; until the spec follows, the name is another device's. A
    # node too many is as bad: Kata plugs each of them, and refuses a pod for one that it takes for no device.
    if set(resolved) != set(device.spec_nodes):
        wanted = ", ".join(device.spec_nodes)
        return (
            Problem(
                "cdi-stale",
                f"the CDI name {name} stands for {', '.join(resolved) or 'no node'}, and must for {wanted}",
                "look at kata-manager, which keeps the spec current",
            ),
        )
    return ()


def label(device: AssignableDevice) -> str:
    """*device* as people find it again: by its name and by where it sits."""
    return f"{device.resource}={device.id} ({', '.join(str(address) for address in device.addresses)})"


def summary(devices: Devices) -> str:
    """How many devices there are and how they fare: `8 devices, 7 healthy, 1 in use`."""
    if not devices:
        return "no device"
    count = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
    healthy = sum(device.is_healthy for device in devices)
    in_use = sum(device.in_use for device in devices)
    return f"{count}, {healthy} healthy" + (f", {in_use} in use" if in_use else "")
