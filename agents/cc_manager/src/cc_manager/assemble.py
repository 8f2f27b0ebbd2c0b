"""The daemon's parts put together, for the command line, the demo and the tests alike."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from cc_manager.clock import Clock
from cc_manager.cluster.eviction import Eviction, Tell
from cc_manager.cluster.holders import Holders
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.cluster.notices import Notices
from cc_manager.cluster.pause import Pause
from cc_manager.cluster.pods import KubePods
from cc_manager.mode_change import ModeChange
from cc_manager.reconcile import Reconciler
from cc_manager.room import Room
from cc_manager.setter import ModeSetter
from cc_manager.settings import ClusterSettings
from nodelib.event_reasons import EventReason
from nodelib.kube import Kube
from nodelib.pod_resources import PodResources


def tell_nobody(_reason: EventReason, _message: str) -> None:
    """Where no Events can be posted; everything is in the log and on the node as well."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The ways from this node to its cluster."""

    kube: Kube
    node_name: str
    pod_resources: PodResources | None = None
    """None: nobody can be asked which pods have devices, and only those that are open count as held."""
    tell: Tell = tell_nobody


def assemble(
    setter: ModeSetter, cluster: Cluster, settings: ClusterSettings | None = None, clock: Clock | None = None
) -> Reconciler:
    """The reconciler of one node."""
    settings = settings or ClusterSettings()
    stop = setter.wakeups.stop
    clock = clock or Clock(sleep=_until_stopped(stop))
    kube_node = KubeNode(cluster.kube, cluster.node_name)
    pods = KubePods(cluster.kube, cluster.node_name, settings.namespace, clock)
    pause = Pause(kube_node, pods, settings, stop.is_set)
    eviction = Eviction(pods, settings.evict_timeout_s, clock, cluster.tell)
    room = Room(setter, Holders(cluster.pod_resources, pods), eviction, clock)
    change = ModeChange(setter, kube_node, pause, room, settings, clock)
    return Reconciler(setter, kube_node, pause, change, Notices(cluster.tell), settings.drift)


def _until_stopped(stop: threading.Event) -> Callable[[float], None]:
    """A sleep that the stop event ends: whoever sleeps looks at that event next."""

    def sleep(seconds: float) -> None:
        stop.wait(seconds)

    return sleep
