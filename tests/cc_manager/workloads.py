"""Pods that were given devices of a simulated node: known to the kubelet, to the API server, and with a VM or not."""

from dataclasses import replace
from typing import TYPE_CHECKING

from cc_manager.cluster.operands import OPERANDS, key_of
from nodelib.pci import PciAddress
from nodelib.pod_resources import PodDevices, PodResourcesError
from tests.fakes.kernel.machines import VirtualMachine
from tests.fakes.kube.cluster import PODS
from tests.fakes.kube.patch import text
from tests.fakes.kube.roles import OPERATOR_NAMESPACE
from tests.fakes.kube.store import Selector

if TYPE_CHECKING:
    from tests.cc_manager.simulated import CcNode

NAMESPACE = "tenant"


class PodsWithDevices:
    """The kubelet's account, as `nodelib.pod_resources.PodResources` tells it, in this process.

    A pod that the API server lets end (evicted, deleted) takes its VM with it and gives its devices back.
    """

    def __init__(self, node: "CcNode") -> None:
        self._node = node
        self._given: dict[tuple[str, str], PodDevices] = {}
        self._vms: dict[tuple[str, str], VirtualMachine] = {}
        self.error: PodResourcesError | None = None
        """What every question is answered, if set."""
        self.asked = 0
        node.api.cluster.on_pod_end.append(self.end)

    # --- what cc-manager is given

    def list(self) -> tuple[PodDevices, ...]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return tuple(sorted(self._given.values()))

    def get(self, namespace: str, pod: str) -> tuple[PodDevices, ...]:
        raise NotImplementedError

    def offers_get(self) -> bool:
        return True

    # --- what happens on the node

    def admit(self, name: str, *addresses: PciAddress, resource: str = "nvidia.com/pgpu", in_api: bool = True) -> None:
        """The kubelet gives the devices to a pod, whose VM is not started yet."""
        devices = {device.address: device for device in self._node.node.scan().devices}
        ids = tuple(str(devices[address].iommu_group) for address in addresses)
        if in_api:
            self._node.api.add_pod(name, NAMESPACE, {"app": name})
        self._given[NAMESPACE, name] = PodDevices(NAMESPACE, name, "main", resource, ids)

    def rename_ids(self, name: str, *ids: str) -> None:
        """Another plugin, which names devices in its own way."""
        self._given[NAMESPACE, name] = replace(self._given[NAMESPACE, name], device_ids=ids)

    def start_vm(self, name: str, *addresses: PciAddress) -> None:
        """Its VM opens the devices."""
        self._vms[NAMESPACE, name] = self._node.kernel.start_vm(*addresses)

    def end(self, namespace: str, name: str) -> None:
        """The pod has ended; the kubelet forgets what it had."""
        self._given.pop((namespace, name), None)
        if (vm := self._vms.pop((namespace, name), None)) is not None:
            vm.close()

    def end_all(self) -> None:
        """The pods end; the API server is not told."""
        for namespace, name in list(self._given):
            self.end(namespace, name)

    def delete_all(self) -> None:
        """Their owners delete the pods."""
        for namespace, name in list(self._given):
            self._node.api.cluster.end_pod(namespace, name)


def add_operands(node: "CcNode", *operands: str, value: str = "true") -> None:
    """The installation's DaemonSets for *operands* (all of them by default), which run where their label is *value*."""
    for operand in operands or OPERANDS:
        node.api.set_label(key_of(operand), value)
        node.api.cluster.add_daemon_set(f"nvidia-{operand}", OPERATOR_NAMESPACE, selects={key_of(operand): value})


def operand_labels(node: "CcNode") -> dict[str, str]:
    """The operands' labels as they are on the node, by operand."""
    return {operand: node.api.labels[key_of(operand)] for operand in OPERANDS if key_of(operand) in node.api.labels}


def operand_pods(node: "CcNode") -> list[str]:
    """The operands that have a pod on the node."""
    return sorted(name.rpartition("-")[0].removeprefix("nvidia-") for name in _installation(node))


def end_pods(node: "CcNode", but: str = "none") -> None:
    """The containers of every pod of the installation have ended, but those of one operand."""
    for name in _installation(node):
        if not name.startswith(f"nvidia-{but}-"):
            node.api.cluster.end_pod(OPERATOR_NAMESPACE, name)


def _installation(node: "CcNode") -> list[str]:
    return [text(pod, "metadata", "name") for pod in node.api.store.select(Selector(PODS, OPERATOR_NAMESPACE))[0]]
