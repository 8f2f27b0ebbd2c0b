"""CDI specs: the values and the exact content of the files that we write.

Rules: Container Device Interface specification 1.1.0.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from nodelib.names import ResourceName
from nodelib.vfio import AssignableDevice

WRITTEN_VERSION = "0.5.0"
"""The lowest version in which names may begin with a digit; Kata's Go runtime knows no newer than 0.6.0."""


@dataclass(frozen=True, order=True, slots=True)
class CdiDevice:
    """One name of a spec and the device nodes it stands for."""

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CdiSpec:
    """A whole spec file as far as this project cares: kind, names, nodes."""

    kind: str
    devices: tuple[CdiDevice, ...]
    version: str = WRITTEN_VERSION
    is_of_nodes_alone: bool = field(default=True, compare=False)
    """Whether its edits are device nodes and nothing else; `nodes` tells of no other."""

    def qualified_names(self) -> tuple[str, ...]:
        return tuple(f"{self.kind}={device.name}" for device in self.devices)

    def as_document(self) -> dict[str, object]:
        """The spec as the mapping that is written to a file, keys in the order people expect."""
        return {
            "cdiVersion": self.version,
            "kind": self.kind,
            "devices": [
                {
                    "name": device.name,
                    "containerEdits": {"deviceNodes": [{"path": node} for node in device.nodes]},
                }
                for device in self.devices
            ],
        }


def specs_for(devices: Iterable[AssignableDevice], version: str = WRITTEN_VERSION) -> tuple[CdiSpec, ...]:
    """One spec per CDI kind with every name of every resolvable device; a kind without devices has none.

    Sorted, so that equal devices give equal bytes.
    """
    by_resource: dict[ResourceName, list[CdiDevice]] = {}
    for device in devices:
        if device.is_resolvable:
            entries = by_resource.setdefault(device.resource, [])
            entries += [CdiDevice(name, device.spec_nodes) for name in (device.id, *device.further_names)]
    return tuple(
        CdiSpec(resource.cdi_kind, tuple(sorted(entries, key=_natural)), version)
        for resource, entries in sorted(by_resource.items())
    )


def _natural(device: CdiDevice) -> tuple[int, int, str]:
    """Numbers in counting order, then the other names by the alphabet."""
    return (0, int(device.name), "") if device.name.isdigit() else (1, 0, device.name)
