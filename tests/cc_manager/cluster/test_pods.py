"""The pods of the node in the API server: watched until they are gone, whatever the watch meets; found; evicted."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import pytest

from cc_manager.clock import Clock
from cc_manager.cluster.operand_pods import Pod
from cc_manager.cluster.pods import KubePods
from nodelib.kube import ApiAccess, ApiError, Kube
from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.faults import Drop, Fault, Garble, Refuse
from tests.fakes.kube.rest import Target

NAMESPACE = "gpu-operator"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi("node-1", {"zone": "a"}) as api:
        api.add_pod("vfio-1", NAMESPACE, {"name": "nvidia-vfio-manager"})
        api.add_pod("other", NAMESPACE, {})
        api.add_pod("elsewhere", NAMESPACE, {"name": "nvidia-vfio-manager"}, node="node-2")
        yield api


@pytest.fixture
def pods(api: KubeApi) -> Iterator[KubePods]:
    kube = Kube(ApiAccess(api.url, token=api.token))
    with contextlib.closing(kube):
        yield KubePods(kube, "node-1", NAMESPACE)


def operands(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    return tuple(pod for pod in pods if ("name", "nvidia-vfio-manager") in pod.labels)


def never() -> bool:
    return False


@contextlib.contextmanager
def when(api: KubeApi, condition: Callable[[], bool], do: Callable[[], None]) -> Iterator[None]:
    """Do something as soon as the API server has seen *condition*."""

    def wait_and_do() -> None:
        api.wait_until(condition)
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    yield
    thread.join()


def watched(api: KubeApi, times: int = 1) -> bool:
    return sum(request.verb == "watch" and request.status == 200 for request in api.requests) >= times


def test_pods_that_are_gone_already_are_not_watched(api: KubeApi, pods: KubePods) -> None:
    api.remove_pod("vfio-1", NAMESPACE)
    assert pods.wait_until_gone(operands, 10.0, never) == ()
    assert not watched(api)


def test_the_watch_tells_when_the_last_one_is_gone(api: KubeApi, pods: KubePods) -> None:
    with when(api, partial(watched, api), partial(api.remove_pod, "vfio-1", NAMESPACE)):
        assert pods.wait_until_gone(operands, 60.0, never) == ()
    (watch,) = [request for request in api.requests if request.verb == "watch"]
    assert watch.query["fieldSelector"] == "spec.nodeName=node-1"


def test_one_that_comes_while_others_go_is_waited_for_too(api: KubeApi, pods: KubePods) -> None:
    def replace() -> None:
        api.add_pod("vfio-2", NAMESPACE, {"name": "nvidia-vfio-manager"})
        api.remove_pod("vfio-1", NAMESPACE)

    with (
        when(api, partial(watched, api), replace),
        when(api, partial(watched, api, 2), partial(api.remove_pod, "vfio-2", NAMESPACE)),
    ):
        assert pods.wait_until_gone(operands, 60.0, never) == ()


def test_what_is_left_at_the_deadline_is_told(api: KubeApi, pods: KubePods) -> None:
    (left,) = pods.wait_until_gone(operands, 1.0, never)
    assert str(left) == "gpu-operator/vfio-1"


def test_a_stop_ends_the_wait(api: KubeApi, pods: KubePods) -> None:
    assert pods.wait_until_gone(operands, 600.0, partial(watched, api)) != ()


EXPIRED = json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}).encode() + b"\n"
TROUBLES: dict[str, tuple[str, Fault]] = {
    "410 in the stream": ("watch", Garble(EXPIRED)),
    "an event without an object": ("watch", Garble(b'{"type": "MODIFIED"}\n')),
    "no JSON": ("watch", Garble(b"<html>\n")),
    "a bookmark alone": ("watch", Garble(b'{"type": "BOOKMARK", "object": {"metadata": {}}}\n')),
    "the connection drops": ("watch", Drop()),
    "429 for the watch": ("watch", Refuse(429, retry_after_s=1)),
    "500 for the watch": ("watch", Refuse(500)),
    "503 for the list": ("list", Refuse(503)),
    "a list without items": ("list", Garble(b"{}")),
}


@pytest.mark.parametrize(("verb", "fault"), TROUBLES.values(), ids=TROUBLES.keys())
def test_field_27_whatever_a_watch_of_pods_meets_their_end_is_seen(api: KubeApi, verb: str, fault: Fault) -> None:
    met: list[str] = []

    def meet(target: Target) -> Fault | None:
        # The very first list says whether pods may be listed at all; its failure is the round's.
        if target.verb != verb or met or (verb == "list" and sum(r.verb == "list" for r in api.requests) < 1):
            return None
        met.append(target.verb)
        return fault

    api.faults.choose = meet
    kube = Kube(ApiAccess(api.url, token=api.token))
    pods = KubePods(kube, "node-1", NAMESPACE, Clock(sleep=lambda seconds: None))
    with (
        contextlib.closing(kube),
        when(
            api,
            partial(watched, api, 2 if verb == "watch" and isinstance(fault, Garble) else 1),
            partial(api.remove_pod, "vfio-1", NAMESPACE),
        ),
    ):
        assert pods.wait_until_gone(operands, 60.0, never) == ()
    assert met


def test_without_the_right_to_watch_the_pods_are_listed_again(api: KubeApi) -> None:
    api.allow.discard(("watch", "pods"))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            api.remove_pod("vfio-1", NAMESPACE)

    kube = Kube(ApiAccess(api.url, token=api.token))
    with contextlib.closing(kube):
        assert KubePods(kube, "node-1", NAMESPACE, Clock(sleep=sleep)).wait_until_gone(operands, 60.0, never) == ()
    assert slept == [1.0, 1.0, 1.0]


def test_field_27_a_server_that_asks_for_patience_gets_it(api: KubeApi) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        api.remove_pod("vfio-1", NAMESPACE)

    api.faults.refuse(429, retry_after_s=7, verb="watch")
    kube = Kube(ApiAccess(api.url, token=api.token))
    with contextlib.closing(kube):
        assert KubePods(kube, "node-1", NAMESPACE, Clock(sleep=sleep)).wait_until_gone(operands, 60.0, never) == ()
    assert slept == [7.0]


def test_a_pod_is_found_by_its_name_on_this_node_only(api: KubeApi, pods: KubePods) -> None:
    found = pods.find(NAMESPACE, "vfio-1")
    assert (found.name, found.node, bool(found.uid)) == ("vfio-1", "node-1", True)
    assert pods.find(NAMESPACE, "elsewhere") == Pod(NAMESPACE, "elsewhere")
    assert pods.find(NAMESPACE, "nobody") == Pod(NAMESPACE, "nobody")


def test_an_eviction_names_the_very_pod(api: KubeApi, pods: KubePods) -> None:
    found = pods.find(NAMESPACE, "vfio-1")
    assert pods.evict(found) == ""
    (request,) = [request for request in api.requests if request.resource == "pods/eviction"]
    assert json.loads(request.body)["deleteOptions"] == {"preconditions": {"uid": found.uid}}
    assert pods.evict(found) == "", "gone is gone"
    api.add_pod("vfio-1", NAMESPACE, {})
    assert "409" in pods.evict(found), "another pod of that name"


def test_an_eviction_that_is_forbidden_is_an_error_of_its_own(api: KubeApi, pods: KubePods) -> None:
    api.allow.discard(("create", "pods/eviction"))
    with pytest.raises(ApiError, match="403"):
        pods.evict(pods.find(NAMESPACE, "vfio-1"))
