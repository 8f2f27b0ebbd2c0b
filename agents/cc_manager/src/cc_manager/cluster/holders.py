"""Which pods hold devices of this node: what the kubelet gave them, and whether the API server still has them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cc_manager.cluster.operand_pods import Pod
from cc_manager.cluster.pods import KubePods
from cc_manager.observation import Observation
from nodelib.names import NVIDIA_DOMAIN
from nodelib.pci import PciAddress
from nodelib.pod_resources import PodResources


@dataclass(frozen=True, slots=True)
class Busy:
    """Who is in the way of a change of mode; false if nobody is."""

    addresses: tuple[PciAddress, ...] = ()
    """Devices that a virtual machine has open."""
    pods: tuple[Pod, ...] = ()
    """Pods that were given one of the devices and have not ended; with a uid where the API server knows them."""

    def __bool__(self) -> bool:
        return bool(self.addresses or self.pods)

    def __str__(self) -> str:
        parts = []
        if self.addresses:
            parts.append(f"in use by a virtual machine: {', '.join(map(str, self.addresses))}")
        if self.pods:
            parts.append(f"held by {', '.join(f'pod {pod}' for pod in self.pods)}")
        return "; ".join(parts)


class Holders:
    """Asks the kubelet, and the API server about what it says. *pod_resources* None: the kubelet cannot be asked."""

    def __init__(self, pod_resources: PodResources | None, pods: KubePods) -> None:
        self._pod_resources = pod_resources
        self._pods = pods

    def of(self, addresses: Collection[PciAddress], observations: Iterable[Observation]) -> tuple[Pod, ...]:
        """The pods that hold one of the devices at *addresses*, *observations* being all of the node.

        A plugin names devices by IOMMU group; an id that is not another device's group counts as one of these, for
        nobody can say that it is not. Raises PodResourcesError or ApiError.
        """
        if self._pod_resources is None or not addresses:
            return ()
        others = _groups(one for one in observations if one.address not in addresses)
        others -= _groups(one for one in observations if one.address in addresses)
        holding = {
            (given.namespace, given.pod)
            for given in self._pod_resources.list()
            if given.resource.startswith(f"{NVIDIA_DOMAIN}/") and not others.issuperset(given.device_ids)
        }
        return self._alive(holding) if holding else ()

    def _alive(self, holding: Collection[tuple[str, str]]) -> tuple[Pod, ...]:
        """Without those that have ended: older kubelets list them until they are deleted.

        A pod that the API server does not have here is alive: it was deleted by force, and the kubelet still ends it.
        """
        pods = (self._pods.find(*key) for key in sorted(holding))
        return tuple(pod for pod in pods if not pod.has_ended)


def _groups(observations: Iterable[Observation]) -> set[str]:
    return {str(one.device.iommu_group) for one in observations if one.device.iommu_group is not None}
