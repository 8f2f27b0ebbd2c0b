"""The node object in the API server watched: every change is told, and nothing ends it."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Self

import pytest

from cc_manager.cluster import labels
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.mode import CcMode
from nodelib.kube import ApiAccess, Kube
from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.faults import Fault, Garble
from tests.fakes.kube.rest import Target
from tests.fakes.polling import until

RETRY_S = (0.01, 0.02)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi("node-1", {"zone": "a"}) as api:
        yield api


@contextlib.contextmanager
def connected(api: KubeApi, retry_s: tuple[float, ...] = RETRY_S) -> Iterator[KubeNode]:
    kube = Kube(ApiAccess(api.url, token=api.token))
    try:
        yield KubeNode(kube, "node-1", retry_s)
    finally:
        kube.close()


@pytest.fixture
def kube_node(api: KubeApi) -> Iterator[KubeNode]:
    with connected(api) as kube_node:
        yield kube_node


class Watching:
    """A watch in a thread of its own, as the daemon has one; `changes` counts what it told."""

    def __init__(self, kube_node: KubeNode) -> None:
        self.changes = 0
        self._kube_node = kube_node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=kube_node.watch, args=(self._count, self._stop), name="watch")

    def _count(self, reason: str) -> None:
        assert reason == "labels of node node-1"
        self.changes += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._kube_node.stop_watching()
        until(lambda: not self._thread.is_alive())


def test_a_change_is_told_and_what_we_published_ourselves_is_not(api: KubeApi, kube_node: KubeNode) -> None:
    kube_node.publish(labels.succeeded(CcMode.ON, "{}", 2), kube_node.view())
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.send_bookmarks()
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes > 0)
    assert watching.changes == 1
    api.wait_until(lambda: api.open_watches == 0)


def test_a_label_that_was_set_before_the_watch_began_is_told(api: KubeApi, kube_node: KubeNode) -> None:
    kube_node.view()
    api.set_label(labels.MODE, "off")
    with Watching(kube_node) as watching:
        until(lambda: watching.changes == 1)


def test_only_our_node_is_listed_and_watched(api: KubeApi, kube_node: KubeNode) -> None:
    with Watching(kube_node):
        api.wait_until(lambda: api.open_watches == 1)
    selectors = {r.verb: r.query["fieldSelector"] for r in api.requests if r.verb in ("list", "watch")}
    assert selectors == dict.fromkeys(("list", "watch"), "metadata.name=node-1")


def test_a_watch_that_the_server_ends_goes_on_from_where_it_was(api: KubeApi, kube_node: KubeNode) -> None:
    kube_node.view()
    api.faults.garble(b"", verb="watch")  # a watch without an event, ended by the server
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes == 1)
    assert [r.verb for r in api.requests].count("list") == 1


EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
TROUBLES = {
    "410 in the stream": json.dumps(EXPIRED).encode() + b"\n",
    "another error in the stream": b'{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}\n',
    "an error without a code": b'{"type": "ERROR", "object": {}}\n',
    "an event without an object": b'{"type": "MODIFIED"}\n',
    "an object without metadata": b'{"type": "MODIFIED", "object": {}}\n',
    "no JSON": b"<html>\n",
}


@pytest.mark.parametrize("body", TROUBLES.values(), ids=TROUBLES.keys())
def test_field_27_what_is_wrong_with_a_watch_does_not_end_it(api: KubeApi, kube_node: KubeNode, body: bytes) -> None:
    kube_node.view()
    api.faults.garble(body, verb="watch")
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes == 1)
    assert [r.verb for r in api.requests].count("list") == 2, "after an error the node is listed anew"


def test_field_27_a_version_that_the_server_has_forgotten_is_listed_anew(api: KubeApi, kube_node: KubeNode) -> None:
    kube_node.view()
    ended: list[str] = []

    def end_the_first_and_forget(target: Target) -> Fault | None:
        if target.verb != "watch" or ended:
            return None
        ended.append(target.verb)
        api.compact()
        return Garble(b"")

    api.faults.choose = end_the_first_and_forget
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes == 1)
    assert [r.verb for r in api.requests if r.verb != "get"][:4] == ["list", "watch", "watch", "list"]


def test_a_server_that_has_always_forgotten_is_asked_ever_more_rarely(
    api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.faults.garble(TROUBLES["410 in the stream"], verb="watch", count=3)
    with connected(api, retry_s=(0.02, 0.03, 60.0)) as kube_node, Watching(kube_node):
        until(lambda: len(caplog.records) == 3)
    pauses = [record.getMessage().rpartition(" in ")[2] for record in caplog.records]
    assert pauses == ["0.01 s", "0.03 s", "60 s"], "at once only the first time"


@pytest.mark.parametrize(
    "body",
    [b'{"metadata": {}, "items": [5]}', b'{"metadata": {}, "items": [{}]}', b'{"items": {"a": 1}}', b"{}", b"[]"],
)
def test_field_27_a_list_that_makes_no_sense_does_not_end_the_watch(
    api: KubeApi, kube_node: KubeNode, body: bytes
) -> None:
    kube_node.view()
    api.faults.garble(body, verb="list")
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes >= 1)


def test_field_27_the_watch_survives_an_api_server_that_is_away_for_a_while(api: KubeApi, kube_node: KubeNode) -> None:
    kube_node.view()
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.stop()
        api.set_label(labels.MODE, "off")
        api.start()
        until(lambda: watching.changes == 1)


def test_a_server_that_asks_for_patience_gets_it(
    api: KubeApi, kube_node: KubeNode, caplog: pytest.LogCaptureFixture
) -> None:
    api.faults.refuse(429, retry_after_s=120, verb="list")
    with Watching(kube_node):
        until(lambda: bool(caplog.records))
    (record,) = caplog.records
    assert "429 the server is told to refuse this request; the label is watched again in 120 s" in record.getMessage()


def test_a_right_to_watch_that_is_missing_is_asked_for_ever_more_rarely(
    api: KubeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.allow.discard(("watch", "nodes"))
    with connected(api, retry_s=(0.01, 0.02, 60.0)) as kube_node, Watching(kube_node):
        until(lambda: len(caplog.records) == 3)
    pauses = [record.getMessage().rpartition(" in ")[2] for record in caplog.records]
    assert pauses == ["0.01 s", "0.02 s", "60 s"]


def test_labels_and_annotations_of_others_wake_nobody(api: KubeApi, kube_node: KubeNode) -> None:
    kube_node.view()
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        api.patch_node({"metadata": {"labels": {"zone": "b"}, "annotations": {"note": "x"}}})
        api.set_label("nvidia.com/gpu.deploy.vfio-manager", "true")
        until(lambda: watching.changes > 0)
    assert watching.changes == 1


def test_field_29_what_we_write_ourselves_never_wakes_us_however_late_its_event_comes(
    api: KubeApi, kube_node: KubeNode
) -> None:
    """A failed attempt writes the node several times; taken for news, each would be a retry without any pause."""
    view = kube_node.view()
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        for number in range(40):
            view = kube_node.publish(labels.failed(f"attempt {number}"), view)
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes > 0)
    assert watching.changes == 1
