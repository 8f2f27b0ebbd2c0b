"""One server by itself: an allocation that waits, a client that goes, a folder that is not there."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from device_plugin.allocate import AllocatePolicy
from device_plugin.inventory import Devices
from device_plugin.server import ResourceServer
from device_plugin.settings import WhenHeld
from device_plugin.tally import Tally
from nodelib.errors import NodeError
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub
from nodelib.names import ResourceName
from nodelib.vfio import AssignableDevice, Naming, assignable_devices
from tests.device_plugin.small_node import DEADLINE_S, SmallNode, wait_until
from tests.nodelib.samples import gpu, look

PGPU = ResourceName.parse("nvidia.com/pgpu")
DEVICES: Devices = assignable_devices(look(gpu("3b", 65)), Naming())
ASKING = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=["65"])])


class Held:
    """A device that a virtual machine holds for ever; `asked` is set once somebody looked."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.looks = 0

    def __call__(self, device: AssignableDevice) -> bool:
        self.looks += 1
        self.asked.set()
        return True


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def make(small: SmallNode, held: Held) -> Callable[[], ResourceServer]:
    def make_server() -> ResourceServer:
        policy = AllocatePolicy(held, 60.0, WhenHeld.FAIL)
        return ResourceServer(
            PGPU, small.plugins / "kubelet.sock", policy, Tally(), lambda _reason: None, stream_wait_s=5.0
        )

    return make_server


@pytest.fixture
def server(make: Callable[[], ResourceServer]) -> Iterator[ResourceServer]:
    running = make()
    running.start(DEVICES)
    yield running
    running.begin_stop()
    running.finish_stop()


@pytest.fixture
def channel(small: SmallNode, server: ResourceServer) -> Iterator[grpc.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{small.plugins}/nvidia.com_pgpu.sock", options=options) as opened:
        yield opened


def test_an_allocation_that_waits_ends_with_the_plugin(
    server: ResourceServer, channel: grpc.Channel, held: Held
) -> None:
    waiting = DevicePluginStub(channel).Allocate.future(ASKING)
    assert held.asked.wait(DEADLINE_S)
    server.begin_stop()
    with pytest.raises(grpc.RpcError) as ended:
        waiting.result(DEADLINE_S)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ended.value.details() == "the device plugin is stopping"


def test_an_allocation_whose_caller_has_gone_waits_no_longer(channel: grpc.Channel, held: Held) -> None:
    waiting = DevicePluginStub(channel).Allocate.future(ASKING)
    assert held.asked.wait(DEADLINE_S)
    waiting.cancel()

    def is_over() -> bool:
        before = held.looks
        threading.Event().wait(0.2)  # four times the pace at which it looks again
        return held.looks == before

    wait_until(is_over)


def test_a_client_that_disconnects_in_the_middle_of_a_stream_leaves_no_stream_behind(
    server: ResourceServer, channel: grpc.Channel
) -> None:
    for _ in range(10):
        stream = DevicePluginStub(channel).ListAndWatch(api.Empty())
        assert [device.ID for device in next(iter(stream)).devices] == ["65"]
        stream.cancel()
        wait_until(lambda: not server._streams._open)


def test_the_last_list_is_heard_before_the_stream_ends(server: ResourceServer, channel: grpc.Channel) -> None:
    stream = iter(DevicePluginStub(channel).ListAndWatch(api.Empty()))
    assert len(next(stream).devices) == 1
    server.publish(())
    server.begin_stop()
    assert [len(answer.devices) for answer in stream] == [0]


def test_equal_devices_are_not_told_twice(server: ResourceServer, channel: grpc.Channel) -> None:
    stream = iter(DevicePluginStub(channel).ListAndWatch(api.Empty()))
    assert len(next(stream).devices) == 1
    in_use = assignable_devices(look(gpu("3b", 65, enable=1)), Naming())
    assert in_use != DEVICES
    server.publish(in_use)
    server.begin_stop()
    assert list(stream) == []


def test_a_server_that_cannot_be_started_leaves_nothing_behind(
    small: SmallNode, make: Callable[[], ResourceServer]
) -> None:
    small.plugins.rmdir()
    with pytest.raises(NodeError, match="cannot make a socket in"):
        make().start(DEVICES)
    small.plugins.mkdir()
    (small.plugins / "nvidia.com_pgpu.sock").write_text("in the way")
    with pytest.raises(NodeError, match="is in the way and no socket"):
        make().start(DEVICES)
    assert [path.name for path in Path(small.plugins).iterdir()] == ["nvidia.com_pgpu.sock"]
