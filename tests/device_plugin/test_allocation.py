"""Allocate and preference over the socket: what pods get, what ends them, and what a hostile client is told."""

import math
import threading
from collections.abc import Iterator

import grpc
import pytest

from device_plugin.event_reasons import STILL_IN_USE
from device_plugin.settings import CdiMode, DeviceListStrategy, Settings, WhenHeld
from nodelib.event_reasons import EventReason
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub
from nodelib.metrics import Histogram, Metric
from nodelib.spec_folder import SpecReader
from tests.device_plugin.small_node import PGPU, RunningPlugin, SmallNode, wait_until
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.values import AdmissionError

FIRST, SECOND = "0000:3b:00.0", "0000:5e:00.0"
PATIENT = Settings(cdi=CdiMode.OFF, health_interval_s=60.0, busy_wait_s=30.0, when_held=WhenHeld.FAIL)
FAILING = Settings(cdi=CdiMode.OFF, health_interval_s=60.0, busy_wait_s=0.0, when_held=WhenHeld.FAIL)


@pytest.fixture
def pair(small: SmallNode) -> SmallNode:
    small.add(FIRST, 65)
    small.add(SECOND, 66)
    return small


@pytest.fixture
def stub(pair: SmallNode, kubelet: Kubelet) -> Iterator[DevicePluginStub]:
    with RunningPlugin(pair.node) as running:
        running.wait_ready()
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{pair.plugins}/nvidia.com_pgpu.sock", options=options) as channel:
            yield DevicePluginStub(channel)


def asking(*containers: list[str]) -> api.AllocateRequest:
    return api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=one) for one in containers])


def metric_of(running: RunningPlugin, name: str) -> dict[tuple[str, ...], float]:
    found = next(metric for metric in running.plugin.metrics() if metric.name == f"device_plugin_{name}")
    assert isinstance(found, Metric)
    return dict(found.values)


def test_a_pod_gets_the_nodes_of_its_device_and_no_other(pair: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        pod = kubelet.admit_pod("tenant", requests={PGPU: 1})
        assert pod.device_ids(PGPU) == ("65",)
        assert [(spec.host_path, spec.container_path, spec.permissions) for spec in pod.device_specs] == [
            ("/dev/vfio/vfio", "/dev/vfio/vfio", "rw"),
            ("/dev/vfio/65", "/dev/vfio/65", "rw"),
        ]
        assert metric_of(running, "allocations") == {(PGPU, "allocated"): 1}


def test_how_long_allocations_take_is_told(pair: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        kubelet.admit_pod("tenant", requests={PGPU: 1})
        kubelet.admit_pod("other", requests={PGPU: 1})
        durations = next(metric for metric in running.plugin.metrics() if isinstance(metric, Histogram))
        assert durations.name == "device_plugin_allocation_seconds"
        assert sum(durations.counts.values()) == 2
        assert durations.total > 0
        assert list(durations.counts)[-1] == math.inf


def test_a_pod_gets_cdi_names_and_addresses_where_the_settings_say_so(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 11: the names are the ones that the specs written here have."""
    settings = Settings(
        cdi=CdiMode.WRITE, health_interval_s=60.0, strategy=DeviceListStrategy.CDI_CRI, pass_addresses=True
    )
    with RunningPlugin(pair.node, settings):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        pod = kubelet.admit_pod("tenant", requests={PGPU: 2})
        assert pod.cdi_names == ("nvidia.com/pgpu=65", "nvidia.com/pgpu=66")
        assert pod.envs == {"PCI_RESOURCE_NVIDIA_COM_PGPU": f"{FIRST},{SECOND}"}
        names = SpecReader(pair.node.host).resolve().nodes
        assert all(set(names[name]) <= {spec.host_path for spec in pod.device_specs} for name in pod.cdi_names)


def test_responses_come_in_the_order_of_the_containers(stub: DevicePluginStub) -> None:
    response = stub.Allocate(asking(["66"], ["65"]))
    assert [[spec.host_path for spec in one.devices] for one in response.container_responses] == [
        ["/dev/vfio/vfio", "/dev/vfio/66"],
        ["/dev/vfio/vfio", "/dev/vfio/65"],
    ]


@pytest.mark.parametrize(
    ("containers", "reason"),
    [
        ([["67"]], "there is no device '67'"),
        ([["65", "65"]], "device '65' is asked for twice"),
        ([["65"], []], "the request names no device"),
        ([[f"{number}" for number in range(1000, 6000)]], "there is no device '1000'"),
        ([["65\n66"]], r"there is no device '65\n66'"),
    ],
)
def test_a_request_that_cannot_be_meant_is_an_invalid_argument(
    stub: DevicePluginStub, containers: list[list[str]], reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Allocate(asking(*containers))
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert stub.Allocate(asking(["65"])).container_responses


def test_a_very_long_id_is_refused_like_any_other(stub: DevicePluginStub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.Allocate(asking(["6" * 1_000_000]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_gpu_that_turned_unhealthy_ends_the_pod_with_its_reason(pair: SmallNode, stub: DevicePluginStub) -> None:
    pair.unbind(FIRST)
    pair.event()

    def refusal() -> grpc.RpcError | None:
        try:
            stub.Allocate(asking(["65"]))
        except grpc.RpcError as error:
            return error
        return None

    wait_until(lambda: refusal() is not None)
    error = refusal()
    assert error is not None
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    said = error.details() or ""
    assert "nvidia.com/pgpu=65 (0000:3b:00.0) is unhealthy: 0000:3b:00.0 " in said
    assert "vfio-manager bind" in said


def test_a_preference_that_contradicts_itself_is_an_invalid_argument(stub: DevicePluginStub) -> None:
    request = api.ContainerPreferredAllocationRequest(available_deviceIDs=["65"], allocation_size=2)
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetPreferredAllocation(api.PreferredAllocationRequest(container_requests=[request]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_what_is_not_offered_is_answered_all_the_same(stub: DevicePluginStub) -> None:
    options = stub.GetDevicePluginOptions(api.Empty())
    assert (options.pre_start_required, options.get_preferred_allocation_available) == (False, True)
    assert stub.PreStartContainer(api.PreStartContainerRequest(devices_ids=["65"])) is not None


def test_a_gpu_in_use_is_preferred_last(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 5: the last pod's virtual machine still has the first GPU."""
    pair.write(FIRST, "enable", "1")
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        assert kubelet.admit_pod("tenant", requests={PGPU: 1}).device_ids(PGPU) == ("66",)


def test_a_gpu_is_given_away_when_the_dying_virtual_machine_lets_go(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 5: the wait ends with the use, long before its limit."""
    pair.write(FIRST, "enable", "1")
    pair.unplug(SECOND)
    with RunningPlugin(pair.node, PATIENT) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        admitted = threading.Thread(target=lambda: kubelet.admit_pod("next", requests={PGPU: 1}))
        admitted.start()
        pair.write(FIRST, "enable", "0")
        kubelet.wait_until(lambda: len(kubelet.pods) == 1)
        admitted.join(10)
        assert metric_of(running, "allocations") == {(PGPU, "allocated"): 1}


def test_a_gpu_that_stays_in_use_is_given_away_with_a_warning(
    pair: SmallNode, kubelet: Kubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 5, --when-held allow: VFIO itself excludes. Never another id than the kubelet chose."""
    told: list[tuple[EventReason, str]] = []
    pair.write(FIRST, "enable", "1")
    pair.unplug(SECOND)
    with RunningPlugin(pair.node, tell=lambda *event: told.append(event)) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        pod = kubelet.admit_pod("next", requests={PGPU: 1})
        assert [spec.host_path for spec in pod.device_specs] == ["/dev/vfio/vfio", "/dev/vfio/65"]
        assert metric_of(running, "allocations") == {(PGPU, "held"): 1}
    message = "allocated nvidia.com/pgpu=65 (0000:3b:00.0) although a virtual machine still has it open"
    assert message in caplog.text
    assert told == [(STILL_IN_USE, message)]


def test_a_gpu_that_stays_in_use_fails_the_pod_where_that_is_asked_for(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 5, --when-held fail."""
    pair.write(FIRST, "enable", "1")
    pair.unplug(SECOND)
    with RunningPlugin(pair.node, FAILING) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        with pytest.raises(AdmissionError, match=r"0000:3b:00\.0.* is still in use by a virtual machine") as refused:
            kubelet.admit_pod("next", requests={PGPU: 1})
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        assert metric_of(running, "allocations") == {(PGPU, "refused"): 1}


def test_a_use_that_began_after_the_last_look_is_seen(pair: SmallNode, kubelet: Kubelet) -> None:
    """VFIO announces no open: Allocate looks for itself."""
    with RunningPlugin(pair.node, FAILING):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        for address in (FIRST, SECOND):
            pair.write(address, "enable", "1")
        with pytest.raises(AdmissionError, match="still in use"):
            kubelet.admit_pod("next", requests={PGPU: 1})


def test_a_companion_in_use_counts_for_the_whole_group(small: SmallNode, kubelet: Kubelet) -> None:
    small.add(FIRST, 65)
    small.add("0000:3b:00.1", 65, device="0x22be", pci_class="0x040300")
    small.write("0000:3b:00.1", "enable", "1")
    with RunningPlugin(small.node, FAILING):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        with pytest.raises(AdmissionError, match="still in use"):
            kubelet.admit_pod("next", requests={PGPU: 1})
