"""What the simulated kubelet still knows after a restart, and what PodResources says of it."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet import podresources_v1_pb2 as pods_api
from nodelib.kubelet.podresources_v1_pb2_grpc import PodResourcesListerStub
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import (
    RESOURCE_NAME,
    MinimalPlugin,
    allocate_all,
    device,
    registered,
)
from tests.fakes.kubelet.values import AdmissionError

DEVICES = [device("65", numa_node=0), device("66", numa_node=1), device("67")]


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as running:
        yield running


@pytest.fixture
def plugin(kubelet: Kubelet) -> Iterator[MinimalPlugin]:
    with registered(kubelet, DEVICES) as serving:
        yield serving


@pytest.fixture
def pod_resources(kubelet: Kubelet) -> Iterator[PodResourcesListerStub]:
    with grpc.insecure_channel(
        f"unix:{kubelet.pod_resources_socket}",
        options=[("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        yield PodResourcesListerStub(channel)


# The checkpoint: facts/kubelet-cdi-kata-contract.md, "its checkpoint file" and "the kubelet's
# checkpoint holds the old ids".


def test_allocations_survive_a_restart(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 2})
    kubelet.restart()
    assert kubelet.pods == (pod,)
    plugin.close()
    with registered(kubelet, DEVICES):
        other = kubelet.admit_pod("other", requests={RESOURCE_NAME: 1})
    assert other.device_ids(RESOURCE_NAME) == ("67",)


def test_another_kubelet_on_the_same_folder_goes_on_where_the_first_ended(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 3})
    kubelet.stop()
    with Kubelet(kubelet.plugin_folder, kubelet.pod_resources_folder) as second:
        assert second.pods == (pod,)
        assert second.resource_names == (RESOURCE_NAME,)


def test_a_deleted_pod_does_not_come_back(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 2})
    kubelet.delete_pod("trainer")
    kubelet.restart()
    assert kubelet.pods == ()


def test_the_checkpoint_file_names_the_devices_by_numa_node(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.admit_pod("trainer", "blue", requests={RESOURCE_NAME: 3})
    text = (kubelet.plugin_folder / "kubelet_internal_checkpoint").read_text()
    data = json.loads(text)["Data"]
    (entry,) = data["PodDeviceEntries"]
    assert entry["PodUID"] == "blue/trainer"
    assert entry["DeviceIDs"] == {"0": ["65"], "1": ["66"], "-1": ["67"]}
    assert data["RegisteredDevices"] == {RESOURCE_NAME: ["65", "66", "67"]}


def test_the_registered_devices_are_in_the_file_as_soon_as_they_are_known(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    text = (kubelet.plugin_folder / "kubelet_internal_checkpoint").read_text()
    assert json.loads(text)["Data"]["RegisteredDevices"] == {RESOURCE_NAME: ["65", "66", "67"]}


def test_a_kubelet_that_stops_during_allocate_has_allocated_nothing(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    asked = threading.Event()
    release = threading.Event()

    def hold(request: api.AllocateRequest) -> api.AllocateResponse:
        asked.set()
        assert release.wait(10)
        return allocate_all(request)

    plugin.on_allocate = hold
    with ThreadPoolExecutor(1) as scheduler:
        admission = scheduler.submit(kubelet.admit_pod, "late", requests={RESOURCE_NAME: 1})
        assert asked.wait(10)
        kubelet.stop()
        with pytest.raises(AdmissionError) as ended:
            admission.result(timeout=10)
        release.set()
    assert ended.value.code is grpc.StatusCode.CANCELLED
    kubelet.start()
    assert kubelet.pods == ()


# PodResources: facts/kubelet-cdi-kata-contract.md, item 1.


def test_get_tells_the_devices_of_one_pod(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    pod_resources: PodResourcesListerStub,
) -> None:
    kubelet.admit_pod("trainer", "blue", requests={RESOURCE_NAME: 3})
    request = pods_api.GetPodResourcesRequest(pod_name="trainer", pod_namespace="blue")
    pod = pod_resources.Get(request, timeout=10).pod_resources
    assert (pod.name, pod.namespace) == ("trainer", "blue")
    (container,) = pod.containers
    assert [
        (entry.resource_name, list(entry.device_ids), [node.ID for node in entry.topology.nodes])
        for entry in container.devices
    ] == [
        (RESOURCE_NAME, ["65"], [0]),
        (RESOURCE_NAME, ["66"], [1]),
        (RESOURCE_NAME, ["67"], []),
    ]


def test_get_still_knows_a_pod_after_a_restart_and_before_its_plugin(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    pod_resources: PodResourcesListerStub,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
    kubelet.restart()
    request = pods_api.GetPodResourcesRequest(pod_name="trainer", pod_namespace="default")
    pod = pod_resources.Get(request, timeout=10, wait_for_ready=True).pod_resources
    assert [list(entry.device_ids) for entry in pod.containers[0].devices] == [["65"]]


@pytest.mark.parametrize(("name", "namespace"), [("nobody", "default"), ("trainer", "blue")])
def test_get_does_not_find_an_unknown_pod(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    pod_resources: PodResourcesListerStub,
    name: str,
    namespace: str,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
    request = pods_api.GetPodResourcesRequest(pod_name=name, pod_namespace=namespace)
    with pytest.raises(grpc.RpcError) as refused:
        pod_resources.Get(request, timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_get_is_refused_while_its_feature_gate_is_off(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    pod_resources: PodResourcesListerStub,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
    kubelet.pod_resources_get_enabled = False
    request = pods_api.GetPodResourcesRequest(pod_name="trainer", pod_namespace="default")
    with pytest.raises(grpc.RpcError) as refused:
        pod_resources.Get(request, timeout=10)
    assert refused.value.details() == "PodResources API Get method disabled"
    listed = pod_resources.List(pods_api.ListPodResourcesRequest(), timeout=10)
    assert [pod.name for pod in listed.pod_resources] == ["trainer"]


def test_list_tells_all_pods_and_their_devices(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    pod_resources: PodResourcesListerStub,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
    kubelet.admit_pod("idle", requests={})
    listed = pod_resources.List(pods_api.ListPodResourcesRequest(), timeout=10).pod_resources
    assert [(pod.name, len(pod.containers[0].devices)) for pod in listed] == [
        ("idle", 0),
        ("trainer", 1),
    ]
    kubelet.delete_pod("trainer")
    listed = pod_resources.List(pods_api.ListPodResourcesRequest(), timeout=10).pod_resources
    assert [pod.name for pod in listed] == ["idle"]


def test_allocatable_resources_are_the_healthy_devices_taken_or_not(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    pod_resources: PodResourcesListerStub,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
    plugin.advertise(device("65"), device("66", "Unhealthy"), device("67"))
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)
    answer = pod_resources.GetAllocatableResources(
        pods_api.AllocatableResourcesRequest(),
        timeout=10,
    )
    assert [list(entry.device_ids) for entry in answer.devices] == [["65"], ["67"]]
