"""Which pods hold devices of this node: what the kubelet gave them, and whether the API server still has them."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from cc_manager.cluster.operand_pods import Pod
from cc_manager.cluster.pods import KubePods
from cc_manager.observation import Observation
from nodelib.inventory import Inventory
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
    doubtful: frozenset[Pod] = frozenset()
    """Those of *pods* that may hold one, and as well something else: they are waited for, and never evicted."""

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

    def of(
        self, addresses: Collection[PciAddress], observations: Collection[Observation], inventory: Inventory
    ) -> Busy:
        """The pods that hold one of the devices at *addresses*, *observations* being all of the node.

        A plugin names devices by IOMMU group, or by PCI address, as NVIDIA's network plugins do. Any other id counts as
        one of these devices, for nobody can say that it is not, and makes its pod doubtful. Raises PodResourcesError or
        ApiError.
        """
        if self._pod_resources is None or not addresses:
            return Busy()
        meant = _Meant(addresses, observations, inventory)
        sure, doubtful = set(), set()
        for given in self._pod_resources.list():
            if given.resource.startswith(f"{NVIDIA_DOMAIN}/"):
                answers = {meant.by(device_id) for device_id in given.device_ids}
                if True in answers:
                    sure.add((given.namespace, given.pod))
                elif None in answers:
                    doubtful.add((given.namespace, given.pod))
        pods = self._alive(sure | doubtful)
        return Busy(pods=pods, doubtful=frozenset(pod for pod in pods if (pod.namespace, pod.name) not in sure))

    def _alive(self, holding: Collection[tuple[str, str]]) -> tuple[Pod, ...]:
        """Without those that have ended: older kubelets list them until they are deleted.

        A pod that the API server does not have here is alive: it was deleted by force, and the kubelet still ends it.
        """
        pods = (self._pods.find(*key) for key in sorted(holding))
        return tuple(pod for pod in pods if not pod.has_ended)


class _Meant:
    """Which ids of plugins mean one of the devices at *addresses*."""

    def __init__(
        self, addresses: Collection[PciAddress], observations: Collection[Observation], inventory: Inventory
    ) -> None:
        self._groups = _groups(one for one in observations if one.address in addresses)
        self._other_groups = _groups(one for one in observations if one.address not in addresses)
        members = (group.members for group in inventory.groups if str(group.number) in self._groups)
        self._addresses = frozenset(addresses).union(*members)

    def by(self, device_id: str) -> bool | None:
        """Whether *device_id* is one of them; None where nobody can say."""
        with suppress(ValueError):
            return PciAddress.parse(device_id) in self._addresses
        if device_id in self._groups:
            return True
        return False if device_id in self._other_groups else None


def _groups(observations: Iterable[Observation]) -> set[str]:
    return {str(one.device.iommu_group) for one in observations if one.device.iommu_group is not None}
