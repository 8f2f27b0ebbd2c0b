"""Whoever reaches the socket: any request is answered, with a status that says what is wrong, and harms nobody else."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_plugin.allocate import AllocatePolicy
from device_plugin.inventory import Devices
from device_plugin.server import ResourceServer
from device_plugin.settings import WhenHeld
from device_plugin.tally import Tally
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub
from nodelib.names import ResourceName
from nodelib.vfio import Naming, assignable_devices
from tests.device_plugin.process import process
from tests.device_plugin.small_node import DEADLINE_S, PGPU, SmallNode
from tests.fakes.kubelet import Kubelet
from tests.nodelib.samples import PROPERTY, gpu, look

Answer = TypeVar("Answer")
RESOURCE = ResourceName.parse(PGPU)
DEVICES: Devices = assignable_devices(
    look(gpu("3b", 65), gpu("5e", 66, vfio_cdev="vfio3"), gpu("83", 67, driver=None)), Naming()
)
NODES = {"65": ["/dev/vfio/vfio", "/dev/vfio/65"], "66": ["/dev/vfio/devices/vfio3"]}
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
IDS = (
    st.sampled_from(["65", "66", "67", "65\n", " 65", "065", "nvidia.com/pgpu=65", "0000:3b:00.0", "", "\0"])
    | st.text()
)
CODES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[grpc.Channel]:
    """Three devices, one of them unhealthy; no kubelet is needed."""
    policy = AllocatePolicy(lambda _device: False, 0.0, WhenHeld.FAIL)
    server = ResourceServer(RESOURCE, folder / "kubelet.sock", policy, Tally(), lambda _: None, stream_wait_s=5.0)
    server.start(DEVICES)
    try:
        with grpc.insecure_channel(f"unix:{folder}/nvidia.com_pgpu.sock", options=OPTIONS) as channel:
            yield channel
    finally:
        server.begin_stop()
        server.finish_stop()


def outcome(call: Callable[[], Answer]) -> tuple[Answer | None, grpc.RpcError | None]:
    """The answer, or the error that came instead."""
    try:
        return call(), None
    except grpc.RpcError as error:
        return None, error


def refused(call: Callable[[], object]) -> grpc.RpcError | None:
    return outcome(call)[1]


def is_clear(error: grpc.RpcError | None, codes: Collection[grpc.StatusCode]) -> bool:
    """Whether *error* has a status that fits and says why, in some words."""
    return isinstance(error, grpc.Call) and error.code() in codes and 0 < len(error.details() or "") < 1000


def call_of(channel: grpc.Channel, method: str) -> Callable[[bytes], bytes]:
    """A call that sends the very bytes it is given."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return lambda data: call(data, timeout=DEADLINE_S)


def is_well(stub: DevicePluginStub) -> bool:
    """Whether a proper request is still answered."""
    request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=["65"])])
    return len(stub.Allocate(request, timeout=DEADLINE_S).container_responses) == 1


def test_any_list_of_ids_gets_exactly_its_nodes_or_a_reason(small: SmallNode) -> None:
    with served(small.plugins) as channel:
        stub = DevicePluginStub(channel)

        @PROPERTY
        @given(containers=st.lists(st.lists(IDS, max_size=4), max_size=4))
        def ask(containers: Sequence[Sequence[str]]) -> None:
            request = api.AllocateRequest(
                container_requests=[api.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
            )
            wanted = [one for ids in containers for one in ids]
            is_proper = all(containers) and set(wanted) <= set(NODES) and len(set(wanted)) == len(wanted)
            answer, error = outcome(lambda: stub.Allocate(request, timeout=DEADLINE_S))
            assert is_proper is (error is None)
            if answer is None:
                assert is_clear(error, CODES)
                return
            given_nodes = [[spec.host_path for spec in one.devices] for one in answer.container_responses]
            assert [set(nodes) for nodes in given_nodes] == [
                {node for wanted_id in ids for node in NODES[wanted_id]} for ids in containers
            ]
            assert all(len(nodes) == len(set(nodes)) for nodes in given_nodes)

        ask()
        assert is_well(stub)


def test_any_preference_is_of_the_right_size_or_refused(small: SmallNode) -> None:
    with served(small.plugins) as channel:
        stub = DevicePluginStub(channel)

        @PROPERTY
        @given(
            available=st.lists(IDS, max_size=6),
            must_include=st.lists(IDS, max_size=3),
            size=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 6),
        )
        def ask(available: list[str], must_include: list[str], size: int) -> None:
            one = api.ContainerPreferredAllocationRequest(
                available_deviceIDs=available, must_include_deviceIDs=must_include, allocation_size=size
            )
            request = api.PreferredAllocationRequest(container_requests=[one])
            answer, error = outcome(lambda: stub.GetPreferredAllocation(request, timeout=DEADLINE_S))
            if answer is None:
                assert is_clear(error, {grpc.StatusCode.INVALID_ARGUMENT})
                return
            ids = list(answer.container_responses[0].deviceIDs)
            assert len(ids) == len(set(ids)) == size
            assert set(must_include) <= set(ids) <= set(available)

        ask()
        assert is_well(stub)


@pytest.mark.parametrize("count", [5_000, 50_000])
def test_thousands_of_ids_are_refused_at_the_first_one(small: SmallNode, count: int) -> None:
    with served(small.plugins) as channel:
        stub = DevicePluginStub(channel)
        many = [str(number) for number in range(1000, 1000 + count)]
        request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=many)])
        error = refused(lambda: stub.Allocate(request, timeout=DEADLINE_S))
        assert error is not None
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "there is no device '1000'")
        preference = api.ContainerPreferredAllocationRequest(available_deviceIDs=[*many, "65"], allocation_size=1)
        answer = stub.GetPreferredAllocation(api.PreferredAllocationRequest(container_requests=[preference]))
        assert list(answer.container_responses[0].deviceIDs) == ["65"]
        assert is_well(stub)


def test_bytes_that_are_no_message_and_calls_that_are_none_are_refused(small: SmallNode) -> None:
    with served(small.plugins) as channel:
        stub = DevicePluginStub(channel)

        @PROPERTY
        @given(
            data=st.binary(max_size=200),
            method=st.sampled_from(["Allocate", "GetPreferredAllocation", "GetDevicePluginOptions", "NoSuchCall"]),
        )
        def ask(data: bytes, method: str) -> None:
            error = refused(lambda: call_of(channel, f"/v1beta1.DevicePlugin/{method}")(data))
            if method == "NoSuchCall":
                assert error is not None
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            elif error is not None:
                assert error.code() in CODES | {grpc.StatusCode.INTERNAL}

        ask()
        error = refused(lambda: call_of(channel, "/v1.DevicePlugin/Allocate")(b""))
        assert error is not None
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert is_well(stub)


def test_clients_that_go_in_the_middle_of_anything_leave_the_kubelet_its_stream(
    small: SmallNode, kubelet: Kubelet
) -> None:
    """The real process; what is not a message of the contract is no traceback in its log."""
    small.add("0000:3b:00.0", 65)
    with process(small) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        for number in range(30):
            with grpc.insecure_channel(f"unix:{small.plugins}/nvidia.com_pgpu.sock", options=OPTIONS) as channel:
                stub = DevicePluginStub(channel)
                streams = [stub.ListAndWatch(api.Empty()) for _ in range(number % 3)]  # the same client, twice
                assert [len(next(iter(stream)).devices) for stream in streams] == [1] * len(streams)
                assert refused(functools.partial(call_of(channel, "/v1beta1.DevicePlugin/Allocate"), b"\xff" * 9))
        assert kubelet.admit_pod("tenant", requests={PGPU: 1}).device_ids(PGPU) == ("65",)
        assert len(kubelet.registrations) == 1
        said = running.finish()
    assert "Traceback" not in said
    assert "stop serving" not in said
