"""The daemon's rounds with a kubelet that gives devices away, asked over its real socket by a child process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.assemble import Cluster, assemble
from cc_manager.cluster import labels
from cc_manager.reconcile import Reconciler
from nodelib.pod_resources import PodResourcesChild
from tests.cc_manager.simulated import NODE_NAME, CcNode
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import RESOURCE_NAME, device, registered


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=2, labels={labels.MODE: "off"}) as node:
        yield node


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(tmp_path / "plugins", tmp_path / "pods") as kubelet:
        yield kubelet


def manager(node: CcNode, kubelet: Kubelet) -> Reconciler:
    outside = Cluster(node.kube(), NODE_NAME, PodResourcesChild(kubelet.pod_resources_socket))
    return assemble(node.setter(), outside, clock=node.time.clock)


def test_field_42_a_pod_that_the_kubelet_admitted_holds_its_devices_until_it_is_deleted(
    node: CcNode, kubelet: Kubelet
) -> None:
    daemon = manager(node, kubelet)
    assert daemon.round().ready
    groups = [str(one.iommu_group) for one in node.node.scan().devices if one.address in node.devices]
    with registered(kubelet, [device(group) for group in groups]):
        kubelet.admit_pod("vm", "tenant", requests={RESOURCE_NAME: 1})
        node.api.add_pod("vm", "tenant", {})
        node.want("on")
        assert daemon.round().message == "waiting to change to mode on: held by pod tenant/vm"
        kubelet.delete_pod("vm", "tenant")
        assert daemon.round().ready
    node.assert_says("on")


def test_a_kubelet_that_restarts_is_waited_for(node: CcNode, kubelet: Kubelet) -> None:
    daemon = manager(node, kubelet)
    assert daemon.round().ready
    kubelet.stop()
    node.want("on")
    result = daemon.round()
    assert result.retry
    assert result.message.startswith("nobody can tell which pods have the devices: there is no socket")
    node.assert_all_in("off")
    kubelet.start()
    assert daemon.round().ready
