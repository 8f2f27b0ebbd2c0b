"""Which devices the simulated kubelet picks, and when it asks the plugin for its preference."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import RESOURCE_NAME, MinimalPlugin, device, registered
from tests.fakes.kubelet.values import AdmissionError

DEVICES = [
    device("65", numa_node=0),
    device("66", numa_node=0),
    device("67", numa_node=1),
    device("68", numa_node=1),
]


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as running:
        yield running


@pytest.fixture
def choosy_plugin(kubelet: Kubelet) -> Iterator[MinimalPlugin]:
    with registered(kubelet, DEVICES, preference=True) as serving:
        yield serving


# facts/kubelet-cdi-kata-contract.md: "answer exactly allocation_size ids, from the available ones,
# containing all the must-include ones. It is skipped when all aligned devices are needed anyway."


def test_a_plugin_without_the_option_is_not_asked_for_a_preference(kubelet: Kubelet) -> None:
    with registered(kubelet, DEVICES) as plugin:
        pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1})
        assert pod.device_ids(RESOURCE_NAME) == ("65",)
        assert plugin.preference_requests == []


def test_the_preferred_devices_are_allocated(
    kubelet: Kubelet,
    choosy_plugin: MinimalPlugin,
) -> None:
    choosy_plugin.on_prefer = lambda _: ["68", "66"]
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 2})
    (request,) = choosy_plugin.preference_requests
    assert list(request.available_deviceIDs) == ["65", "66", "67", "68"]
    assert list(request.must_include_deviceIDs) == []
    assert request.allocation_size == 2
    assert choosy_plugin.asked_ids == [["66", "68"]]


def test_no_preference_is_asked_for_when_all_devices_are_needed(
    kubelet: Kubelet,
    choosy_plugin: MinimalPlugin,
) -> None:
    kubelet.admit_pod("whole-node", requests={RESOURCE_NAME: 4})
    assert choosy_plugin.preference_requests == []


def test_aligned_devices_must_be_included_when_they_are_too_few(
    kubelet: Kubelet,
    choosy_plugin: MinimalPlugin,
) -> None:
    choosy_plugin.on_prefer = lambda _: ["67", "68", "66"]
    pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 3}, numa_nodes=[1])
    (request,) = choosy_plugin.preference_requests
    assert list(request.available_deviceIDs) == ["65", "66", "67", "68"]
    assert list(request.must_include_deviceIDs) == ["67", "68"]
    assert pod.device_ids(RESOURCE_NAME) == ("66", "67", "68")


def test_only_aligned_devices_are_offered_when_they_are_enough(
    kubelet: Kubelet,
    choosy_plugin: MinimalPlugin,
) -> None:
    kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 1}, numa_nodes=[1])
    (request,) = choosy_plugin.preference_requests
    assert list(request.available_deviceIDs) == ["67", "68"]
    assert choosy_plugin.asked_ids == [["67"]]


@pytest.mark.parametrize(
    ("preferred", "complaint"),
    [
        ([], "not 2 different ids"),
        (["65", "65"], "not 2 different ids"),
        (["65", "66", "67"], "not 2 different ids"),
        (["65", "99"], "['99'], which are not available"),
    ],
)
def test_a_bad_preference_ends_no_pod(
    kubelet: Kubelet, choosy_plugin: MinimalPlugin, preferred: list[str], complaint: str
) -> None:
    choosy_plugin.on_prefer = lambda _: preferred
    pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 2})
    assert pod.device_ids(RESOURCE_NAME) == ("65", "66")
    (said,) = kubelet.complaints
    assert complaint in said


def test_a_preference_without_the_aligned_devices_is_complained_about(
    kubelet: Kubelet, choosy_plugin: MinimalPlugin
) -> None:
    choosy_plugin.on_prefer = lambda _: ["65", "66", "67"]
    pod = kubelet.admit_pod("trainer", requests={RESOURCE_NAME: 3}, numa_nodes=[1])
    assert pod.device_ids(RESOURCE_NAME) == ("65", "67", "68")
    (said,) = kubelet.complaints
    assert "['68'], which must be included" in said


def test_a_failed_preference_ends_the_pod(kubelet: Kubelet, choosy_plugin: MinimalPlugin) -> None:
    def fail(request: api.ContainerPreferredAllocationRequest) -> list[str]:
        raise RuntimeError("no idea")

    choosy_plugin.on_prefer = fail
    with pytest.raises(AdmissionError, match="GetPreferredAllocation failed") as ended:
        kubelet.admit_pod("unlucky", requests={RESOURCE_NAME: 1})
    assert ended.value.code is grpc.StatusCode.UNKNOWN
    assert choosy_plugin.allocate_requests == []
