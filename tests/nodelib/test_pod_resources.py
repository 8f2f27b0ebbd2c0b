"""Asking the kubelet which pods have which devices: in this process and through a child, both against a real server."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest

from nodelib.errors import NodeError
from nodelib.kubelet import podresources_v1_pb2 as api
from nodelib.kubelet.podresources_v1_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)
from nodelib.pod_resources import (
    GetDisabled,
    KubeletUnreachable,
    PodDevices,
    PodResources,
    PodResourcesChild,
    PodResourcesError,
    PodUnknown,
    from_json,
    to_json,
)
from nodelib.pod_resources_client import PodResourcesClient
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import RESOURCE_NAME, device, registered
from tests.fakes.kubelet.server import serve

Ask: TypeAlias = Callable[[Path], PodResources]
DEVICES = [device(str(number), numa_node=number % 2) for number in range(65, 69)]


@pytest.fixture(params=[PodResourcesClient, PodResourcesChild])
def ask(request: pytest.FixtureRequest) -> Ask:
    kind: Ask = request.param
    return kind


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(tmp_path / "plugins", tmp_path / "pods") as running:
        yield running


class Scripted(PodResourcesListerServicer):
    """Answers List as it was told to, and knows no other call, as kubelets before Get did."""

    def __init__(self, answer: Callable[[grpc.ServicerContext], api.ListPodResourcesResponse]) -> None:
        self._answer = answer

    def List(  # noqa: N802 - the contract's name
        self, request: api.ListPodResourcesRequest, context: grpc.ServicerContext
    ) -> api.ListPodResourcesResponse:
        return self._answer(context)

    def Get(  # noqa: N802 - the contract's name
        self, request: api.GetPodResourcesRequest, context: grpc.ServicerContext
    ) -> api.GetPodResourcesResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method Get for service v1.PodResourcesLister")

    def GetAllocatableResources(  # noqa: N802 - the contract's name
        self, request: api.AllocatableResourcesRequest, context: grpc.ServicerContext
    ) -> api.AllocatableResourcesResponse:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")


@contextmanager
def scripted(
    folder: Path, answer: Callable[[grpc.ServicerContext], api.ListPodResourcesResponse] | None = None
) -> Iterator[Path]:
    socket = folder / "other.sock"
    servicer = Scripted(answer or (lambda _context: api.ListPodResourcesResponse()))
    with serve(socket, lambda server: add_PodResourcesListerServicer_to_server(servicer, server)):
        yield socket


def test_each_pod_is_listed_with_its_container_resource_and_ids(kubelet: Kubelet, ask: Ask) -> None:
    with registered(kubelet, DEVICES):
        kubelet.admit_pod("trainer", "ml", requests={RESOURCE_NAME: 3})
        kubelet.admit_pod("web", requests={})
        found = ask(kubelet.pod_resources_socket).list()
    assert found == (PodDevices("ml", "trainer", "main", RESOURCE_NAME, ("65", "66", "67")),)
    assert str(found[0]) == "ml/trainer (main): nvidia.com/pgpu=65,66,67"


def test_a_node_without_such_pods_is_no_error(kubelet: Kubelet, ask: Ask) -> None:
    assert ask(kubelet.pod_resources_socket).list() == ()


def test_one_pod_is_told_by_its_name(kubelet: Kubelet, ask: Ask) -> None:
    with registered(kubelet, DEVICES):
        kubelet.admit_pod("trainer", "ml", requests={RESOURCE_NAME: 1})
        kubelet.admit_pod("other", "ml", requests={RESOURCE_NAME: 1})
        found = ask(kubelet.pod_resources_socket).get("ml", "other")
    assert found == (PodDevices("ml", "other", "main", RESOURCE_NAME, ("66",)),)


def test_a_pod_that_is_not_there_is_no_broken_kubelet(kubelet: Kubelet, ask: Ask) -> None:
    with pytest.raises(PodUnknown, match=r"pod nobody in namespace ml not found"):
        ask(kubelet.pod_resources_socket).get("ml", "nobody")


def test_get_switched_off_by_the_feature_gate_is_told_apart_and_says_what_to_do(kubelet: Kubelet, ask: Ask) -> None:
    asking = ask(kubelet.pod_resources_socket)
    assert asking.offers_get()
    kubelet.pod_resources_get_enabled = False
    with pytest.raises(GetDisabled, match=r"Get switched off; .*1\.34.*KubeletPodResourcesGet"):
        asking.get("ml", "trainer")
    assert not asking.offers_get()
    assert asking.list() == ()


def test_a_kubelet_that_does_not_know_get_counts_as_one_that_has_it_off(tmp_path: Path, ask: Ask) -> None:
    with scripted(tmp_path) as socket:
        assert not ask(socket).offers_get()
        with pytest.raises(GetDisabled, match="does not know this call"):
            ask(socket).get("ml", "trainer")


def test_no_socket_is_one_sentence_with_the_path_and_the_remedy(tmp_path: Path, ask: Ask) -> None:
    with pytest.raises(KubeletUnreachable) as told:
        ask(tmp_path / "kubelet.sock").list()
    assert str(told.value) == (
        f"there is no socket {tmp_path}/kubelet.sock: is this a node with a kubelet, and is that folder mounted?"
    )


def test_a_socket_whose_kubelet_is_gone_is_unreachable(kubelet: Kubelet, tmp_path: Path, ask: Ask) -> None:
    left_behind = tmp_path / "left.sock"
    left_behind.hardlink_to(kubelet.pod_resources_socket)
    kubelet.stop()
    with pytest.raises(
        KubeletUnreachable, match=r"does not answer on .*left\.sock \(.*refused.*\); look at the kubelet"
    ):
        ask(left_behind).list()
    with pytest.raises(KubeletUnreachable):
        ask(left_behind).offers_get()


@pytest.mark.parametrize("kind", [PodResourcesClient, PodResourcesChild])
def test_a_kubelet_that_says_nothing_is_left_at_the_deadline(
    tmp_path: Path, kind: Callable[[Path, float], PodResources]
) -> None:
    let_go = threading.Event()

    def silent(_context: grpc.ServicerContext) -> api.ListPodResourcesResponse:
        let_go.wait(20)
        return api.ListPodResourcesResponse()

    with scripted(tmp_path, silent) as socket:
        try:
            with pytest.raises(KubeletUnreachable, match=r"did not answer on .*other\.sock within 0\.2 s"):
                kind(socket, 0.2).list()
        finally:
            let_go.set()


def test_a_refusal_is_told_in_the_kubelets_words(tmp_path: Path, ask: Ask) -> None:
    def refuse(context: grpc.ServicerContext) -> api.ListPodResourcesResponse:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    with scripted(tmp_path, refuse) as socket, pytest.raises(PodResourcesError, match="rejected by rate limit") as e:
        ask(socket).list()
    assert type(e.value) is PodResourcesError


def test_an_answer_longer_than_grpc_takes_unasked_is_read_whole(tmp_path: Path, ask: Ask) -> None:
    devices = [api.ContainerDevices(resource_name="example.com/many", device_ids=[f"{n:060}" for n in range(100)])]
    containers = [api.ContainerResources(name="c", devices=devices)]
    pods = [api.PodResources(name=f"p{number}", namespace="x", containers=containers) for number in range(1000)]
    answer = api.ListPodResourcesResponse(pod_resources=pods)
    assert answer.ByteSize() > 4 * 1024 * 1024
    with scripted(tmp_path, lambda _context: answer) as socket:
        found = ask(socket).list()
    assert len(found) == 1000
    assert {len(devices.device_ids) for devices in found} == {100}


def test_ids_that_the_kubelet_lists_one_by_one_are_one_value(tmp_path: Path) -> None:
    entries = [("a/x", ["1"]), ("a/y", ["9"]), ("a/x", ["2", "1"])]
    devices = [api.ContainerDevices(resource_name=name, device_ids=ids) for name, ids in entries]
    containers = [api.ContainerResources(name=name, devices=devices) for name in ("one", "two")]
    pods = [api.PodResources(name="p", namespace="n", containers=containers)]
    with scripted(tmp_path, lambda _context: api.ListPodResourcesResponse(pod_resources=pods)) as socket:
        found = PodResourcesClient(socket).list()
    assert [(d.container, d.resource, d.device_ids) for d in found] == [
        ("one", "a/x", ("1", "2")),
        ("one", "a/y", ("9",)),
        ("two", "a/x", ("1", "2")),
        ("two", "a/y", ("9",)),
    ]


@pytest.mark.parametrize("error", [PodResourcesError, KubeletUnreachable, GetDisabled, PodUnknown])
def test_an_error_of_the_child_is_the_parents(error: type[PodResourcesError]) -> None:
    with pytest.raises(NodeError, match="as it was said") as raised:
        from_json(to_json(error("as it was said")).encode())
    assert type(raised.value) is error


@pytest.mark.parametrize(
    "printed", [b"", b"{", b"[]", b"5", b'{"pods": [{}]}', b'{"error": "Exit", "text": ""}', b'{"pods": [1]}']
)
def test_a_child_that_prints_nothing_sensible_is_an_error_with_its_last_words(printed: bytes) -> None:
    with pytest.raises(PodResourcesError, match=r"the process that asks the kubelet failed: No module named grpc"):
        from_json(printed, b"Traceback\nNo module named grpc\n")


def test_the_values_and_the_child_cost_no_grpc() -> None:
    """cc-manager has 55 MiB in all."""
    code = "import sys, nodelib.pod_resources; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
