"""The simulated kubelet's checkpoint file: what it still knows after a restart."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from tests.fakes.kubelet.values import PluginDevice, PodAllocation, ResourceAllocation

FILE_NAME = "kubelet_internal_checkpoint"
NO_NUMA_NODE = -1


class PodDeviceEntry(TypedDict):
    PodUID: str
    ContainerName: str
    ResourceName: str
    DeviceIDs: dict[str, list[str]]  # by NUMA node
    AllocResp: str


class Data(TypedDict):
    PodDeviceEntries: list[PodDeviceEntry]
    RegisteredDevices: dict[str, list[str]]


class Content(TypedDict):
    Data: Data


def write_checkpoint(
    folder: Path,
    registered: Mapping[str, Iterable[str]],
    pods: Iterable[PodAllocation],
) -> None:
    entries = [pod_entry(pod, resource) for pod in pods for resource in pod.resources]
    content: Content = {
        "Data": {
            "PodDeviceEntries": entries,
            "RegisteredDevices": {name: sorted(ids) for name, ids in registered.items()},
        }
    }
    # The kubelet's file store writes a hidden file beside and renames it: a plugin that watches the
    # folder sees both names come and go.
    temporary = folder / f".{FILE_NAME}.new"
    temporary.write_text(json.dumps(content))
    temporary.replace(folder / FILE_NAME)


def pod_entry(pod: PodAllocation, resource: ResourceAllocation) -> PodDeviceEntry:
    by_node: dict[str, list[str]] = {}
    for device in resource.devices:
        for node in device.numa_nodes or (NO_NUMA_NODE,):
            by_node.setdefault(str(node), []).append(device.id)
    return {
        # A real one is the API server's uid. This one also says which pod it was.
        "PodUID": f"{pod.namespace}/{pod.name}",
        "ContainerName": "main",
        "ResourceName": resource.resource_name,
        "DeviceIDs": by_node,
        "AllocResp": base64.b64encode(resource.response.SerializeToString()).decode(),
    }


def read_checkpoint(folder: Path) -> tuple[list[str], list[PodAllocation]]:
    """The names of the resources that were registered, and the pods with their devices."""
    try:
        content: Content = json.loads((folder / FILE_NAME).read_text())
    except FileNotFoundError:
        return [], []
    resources: dict[str, list[ResourceAllocation]] = {}
    for entry in content["Data"]["PodDeviceEntries"]:
        resources.setdefault(entry["PodUID"], []).append(resource_allocation(entry))
    pods = []
    for uid, allocations in resources.items():
        namespace, _, name = uid.partition("/")
        pods.append(PodAllocation(name, namespace, tuple(allocations)))
    return sorted(content["Data"]["RegisteredDevices"]), pods


def resource_allocation(entry: PodDeviceEntry) -> ResourceAllocation:
    nodes: dict[str, tuple[int, ...]] = {}
    for node, ids in entry["DeviceIDs"].items():
        for device_id in ids:
            known = nodes.get(device_id, ())
            nodes[device_id] = known if int(node) == NO_NUMA_NODE else (*known, int(node))
    return ResourceAllocation(
        entry["ResourceName"],
        tuple(PluginDevice(device_id, True, nodes[device_id]) for device_id in sorted(nodes)),
        api.ContainerAllocateResponse.FromString(base64.b64decode(entry["AllocResp"])),
    )
