"""How the simulated kubelet admits pods and what ends them, tried with a real plugin."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import (
    RESOURCE_NAME,
    MinimalPlugin,
    allocate_all,
    device,
    registered,
)
from tests.fakes.kubelet.values import AdmissionError

OTHER_NAME = "nvidia.com/nvswitch"
DEVICES = [device(device_id) for device_id in ("65", "66", "67", "68")]


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as running:
        yield running


@pytest.fixture
def plugin(kubelet: Kubelet) -> Iterator[MinimalPlugin]:
    with registered(kubelet, DEVICES) as serving:
        yield serving


# Admission: facts/kubelet-cdi-kata-contract.md, "Allocate: one response per container request" and
# "The kubelet sends one container per call, sets no deadline, and calls during pod admission".


def test_an_admitted_pod_has_what_the_plugin_answered(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 2})
    assert pod.device_ids(RESOURCE_NAME) == ("65", "66")
    assert [spec.host_path for spec in pod.device_specs] == ["/dev/vfio/65", "/dev/vfio/66"]
    assert pod.cdi_names == (f"{RESOURCE_NAME}=65", f"{RESOURCE_NAME}=66")
    assert kubelet.pods == (pod,)
    assert kubelet.complaints == []


def test_allocate_asks_for_one_container_and_has_no_deadline(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
    kubelet.admit_pod("server", requests={RESOURCE_NAME: 1})
    assert [len(request.container_requests) for request in plugin.allocate_requests] == [1, 1]
    # grpc says a time beyond all clocks for a call without a deadline.
    assert min(plugin.time_left_s) > 1e9


def test_a_device_is_given_away_once_until_its_pod_is_deleted(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.admit_pod("first", requests={RESOURCE_NAME: 3})
    kubelet.admit_pod("second", requests={RESOURCE_NAME: 1})
    kubelet.delete_pod("first")
    kubelet.admit_pod("third", requests={RESOURCE_NAME: 1})
    assert plugin.asked_ids == [["65", "66", "67"], ["68"], ["65"]]


def test_capacity_and_allocatable_count_devices_that_pods_have(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 4})
    assert (kubelet.capacity(RESOURCE_NAME), kubelet.allocatable(RESOURCE_NAME)) == (4, 4)


def test_a_pod_that_asks_for_nothing_is_admitted_without_the_plugin(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    pod = kubelet.admit_pod("idle", requests={RESOURCE_NAME: 0, OTHER_NAME: 0})
    assert pod.resources == ()
    assert plugin.allocate_requests == []


def test_the_kubelet_itself_refuses_what_it_does_not_have(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    with pytest.raises(AdmissionError, match="Requested: 5, Available: 4") as too_many:
        kubelet.admit_pod("greedy", requests={RESOURCE_NAME: 5})
    with pytest.raises(AdmissionError, match="unregistered device") as unknown:
        kubelet.admit_pod("switched", requests={OTHER_NAME: 1})
    assert (too_many.value.code, unknown.value.code) == (None, None)
    assert plugin.allocate_requests == []
    assert kubelet.pods == ()


def test_an_unhealthy_device_is_not_given_away(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    plugin.advertise(device("65", "Unhealthy"), device("66"))
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 1)
    pod = kubelet.admit_pod("one", requests={RESOURCE_NAME: 1})
    assert pod.device_ids(RESOURCE_NAME) == ("66",)
    plugin.advertise(device("65", "Unhealthy"))
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 0)
    with pytest.raises(AdmissionError, match="no healthy devices present"):
        kubelet.admit_pod("two", requests={RESOURCE_NAME: 1})


def test_a_lost_plugin_is_asked_for_nothing(kubelet: Kubelet) -> None:
    with registered(kubelet, DEVICES) as plugin:
        plugin.end_streams()
        kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 0)
        with pytest.raises(AdmissionError, match="no healthy devices present"):
            kubelet.admit_pod("late", requests={RESOURCE_NAME: 1})
        assert plugin.allocate_requests == []


def test_a_failed_allocate_ends_the_pod_and_allocates_nothing(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    def fail(request: api.AllocateRequest) -> api.AllocateResponse:
        raise LookupError("65 is held by a dying VM")

    plugin.on_allocate = fail
    with pytest.raises(AdmissionError, match="65 is held by a dying VM") as ended:
        kubelet.admit_pod("unlucky", requests={RESOURCE_NAME: 1})
    assert ended.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert kubelet.pods == ()
    plugin.on_allocate = allocate_all
    assert kubelet.admit_pod("lucky", requests={RESOURCE_NAME: 4}).name == "lucky"


def test_a_pod_whose_second_resource_fails_keeps_nothing_of_the_first(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    with pytest.raises(AdmissionError):
        kubelet.admit_pod("half", requests={RESOURCE_NAME: 4, OTHER_NAME: 1})
    with registered(kubelet, DEVICES, resource_name=OTHER_NAME):
        pod = kubelet.admit_pod("whole", requests={RESOURCE_NAME: 4, OTHER_NAME: 1})
    assert pod.device_ids(RESOURCE_NAME) == ("65", "66", "67", "68")
    assert pod.device_ids(OTHER_NAME) == ("65",)


def test_pods_are_admitted_one_after_the_other(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    both = threading.Barrier(2)
    met: list[bool] = []

    def meet(request: api.AllocateRequest) -> api.AllocateResponse:
        try:
            both.wait(0.2)
            met.append(True)
        except threading.BrokenBarrierError:
            both.reset()
        return allocate_all(request)

    plugin.on_allocate = meet
    with ThreadPoolExecutor(2) as scheduler:
        list(
            scheduler.map(
                lambda name: kubelet.admit_pod(name, requests={RESOURCE_NAME: 1}),
                ["a", "b"],
            )
        )
    assert met == []
    assert sorted(plugin.asked_ids) == [["65"], ["66"]]


def test_an_answer_without_a_response_ends_the_pod(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    plugin.on_allocate = lambda _: api.AllocateResponse()
    with pytest.raises(AdmissionError, match="no containers return in allocation response"):
        kubelet.admit_pod("empty", requests={RESOURCE_NAME: 1})
    assert kubelet.pods == ()


def test_odd_answers_are_complained_about(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    odd = api.DeviceSpec(container_path="/dev/vfio/65", host_path="dev/vfio/65", permissions="rx")
    response = api.ContainerAllocateResponse(
        devices=[odd], cdi_devices=[api.CDIDevice(name="pgpu=65")], envs={"A=B": "C"}
    )
    plugin.on_allocate = lambda _: api.AllocateResponse(container_responses=[response, response])
    kubelet.admit_pod("odd", requests={RESOURCE_NAME: 1})
    complaints = "\n".join(kubelet.complaints)
    assert "answered one container request with 2 responses" in complaints
    assert "has the permissions 'rx'" in complaints
    assert "is not absolute" in complaints
    assert "'pgpu=65' is no qualified CDI name" in complaints
    assert "'A=B' cannot be the name of an environment variable" in complaints


def test_a_name_is_used_once(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    kubelet.admit_pod("trainer", "blue", requests={RESOURCE_NAME: 1})
    kubelet.admit_pod("trainer", "green", requests={RESOURCE_NAME: 1})
    with pytest.raises(ValueError, match="blue/trainer"):
        kubelet.admit_pod("trainer", "blue", requests={RESOURCE_NAME: 1})
