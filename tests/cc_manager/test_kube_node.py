"""The node object in the API server: read, patched and watched, and where the API server is."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager import labels
from cc_manager.kube_node import KubeNode, open_kube
from cc_manager.labels import NodeView
from cc_manager.mode import CcMode
from nodelib.errors import InvalidValue, NotSupported
from nodelib.kube import ApiAccess, ApiError, Kube
from tests.fakes.kube_api import KubeApi
from tests.fakes.kube_faults import Fault, Garble
from tests.fakes.kube_rest import Target
from tests.fakes.polling import until

SAID = labels.succeeded(CcMode.ON, "{}", 2)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi("node-1", {"zone": "a"}) as api:
        yield api


@contextlib.contextmanager
def connected(
    api: KubeApi, name: str = "node-1", token_file: Path | None = None, retry_s: tuple[float, ...] = (0.01, 0.02)
) -> Iterator[KubeNode]:
    access = ApiAccess(api.url, token=api.token, token_file=str(token_file) if token_file else None)
    kube = Kube(access)
    try:
        yield KubeNode(kube, name, retry_s)
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

    def __enter__(self) -> "Watching":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._kube_node.stop_watching()
        until(lambda: not self._thread.is_alive())


# --- read and patched


def test_the_nodes_labels_and_annotations_are_read(api: KubeApi, kube_node: KubeNode) -> None:
    api.patch_node({"metadata": {"annotations": {"note": "x"}}})
    assert kube_node.view() == NodeView({"zone": "a"}, {"note": "x"})


def test_a_node_without_any_is_empty() -> None:
    with KubeApi("node-1") as api, connected(api) as kube_node:
        assert kube_node.view() == NodeView({}, {})


def test_what_is_published_is_on_the_node_and_comes_back(api: KubeApi, kube_node: KubeNode) -> None:
    after = kube_node.publish(SAID, kube_node.view())
    assert after.labels == {"zone": "a", labels.STATE: "on", labels.READY: "true"} == api.labels
    assert after.annotations[labels.MESSAGE] == "2 devices verified in mode on"


def test_what_the_node_says_already_is_not_published_again(api: KubeApi, kube_node: KubeNode) -> None:
    view = kube_node.publish(SAID, kube_node.view())
    before = len(api.requests)
    assert kube_node.publish(SAID, view) is view
    assert len(api.requests) == before


def test_a_label_that_the_administrator_sets_between_reading_and_writing_is_not_lost(
    api: KubeApi, kube_node: KubeNode
) -> None:
    view = kube_node.view()
    api.set_label(labels.MODE, "off")
    after = kube_node.publish(SAID, view)
    assert (after.labels[labels.MODE], api.labels[labels.MODE]) == ("off", "off")


# --- what goes wrong


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (401, "refused GET /api/v1/nodes/node-1: 401 "),
        (403, "refused GET /api/v1/nodes/node-1: 403 "),
        (409, "refused GET /api/v1/nodes/node-1: 409 "),
        (429, "refused GET /api/v1/nodes/node-1: 429 "),
        (500, "refused GET /api/v1/nodes/node-1: 500 "),
        (503, "refused GET /api/v1/nodes/node-1: 503 "),
    ],
)
def test_a_refusal_is_one_sentence_with_the_servers_own_words(
    api: KubeApi, kube_node: KubeNode, code: int, words: str
) -> None:
    api.faults.refuse(code)
    with pytest.raises(ApiError) as refused:
        kube_node.view()
    assert str(refused.value) == f"the API server {words}the server is told to refuse this request"
    assert refused.value.status == code
    assert kube_node.view().labels == {"zone": "a"}


def test_a_right_that_is_missing_is_named(api: KubeApi, kube_node: KubeNode) -> None:
    view = kube_node.view()
    api.allow.discard(("patch", "nodes"))
    with pytest.raises(ApiError, match='refused PATCH .*: 403 .*cannot patch resource "nodes"'):
        kube_node.publish(SAID, view)


def test_a_node_that_does_not_exist_is_named(api: KubeApi) -> None:
    with connected(api, "node-2") as kube_node, pytest.raises(ApiError, match='404 nodes "node-2" not found'):
        kube_node.view()


def test_an_api_server_that_is_away_is_named_with_its_address(api: KubeApi, kube_node: KubeNode) -> None:
    api.stop()
    with pytest.raises(ApiError, match=rf"no answer from the API server at {api.url} \(.*[Rr]efused"):
        kube_node.view()
    api.start()
    assert kube_node.view().labels == {"zone": "a"}


@pytest.mark.parametrize("is_carried_out", [False, True])
def test_a_connection_that_drops_is_told_and_a_patch_can_be_repeated(
    api: KubeApi, kube_node: KubeNode, is_carried_out: bool
) -> None:
    view = kube_node.view()
    api.faults.drop(is_carried_out=is_carried_out)
    with pytest.raises(ApiError, match="no answer from the API server"):
        kube_node.publish(SAID, view)
    assert (labels.STATE in api.labels) is is_carried_out
    kube_node.publish(SAID, kube_node.view())
    assert api.labels[labels.STATE] == "on"


@pytest.mark.parametrize(
    "body", [b"", b"<html>try again", b"[]", b"null", b'{"kind": "Node"}', b'{"metadata": []}', b"\xff\xfe", b'{"a":']
)
def test_an_answer_that_is_no_node_is_told(api: KubeApi, kube_node: KubeNode, body: bytes) -> None:
    api.faults.garble(body)
    with pytest.raises(ApiError, match="the API server('s answer|\\ answered)") as told:
        kube_node.view()
    assert "\n" not in str(told.value)
    assert kube_node.view().labels == {"zone": "a"}


def test_labels_that_are_no_texts_do_not_end_it(api: KubeApi, kube_node: KubeNode) -> None:
    api.faults.garble(b'{"metadata": {"labels": {"a": 5, "b": null}, "annotations": 7}}')
    assert kube_node.view() == NodeView({"a": "5", "b": "None"}, {})


def test_field_27_a_token_that_was_changed_is_read_anew(api: KubeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first-token\n")
    with connected(api, token_file=token) as kube_node:
        kube_node.view()
        api.token = "second-token"
        with pytest.raises(ApiError, match="401 Unauthorized"):
            kube_node.view()
        token.write_text("second-token\n")
        assert kube_node.view().labels == {"zone": "a"}


# --- watched


def test_a_change_is_told_and_what_is_known_already_is_not(api: KubeApi, kube_node: KubeNode) -> None:
    view = kube_node.view()
    with Watching(kube_node) as watching:
        api.wait_until(lambda: api.open_watches == 1)
        kube_node.publish(SAID, view)
        api.send_bookmarks()
        assert watching.changes <= 1  # the event may be quicker than the answer to the patch
        before = watching.changes
        api.set_label(labels.MODE, "off")
        until(lambda: watching.changes == before + 1)
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


# --- where it is


def test_a_kubeconfig_leads_to_the_server(api: KubeApi, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig(server=api.url, token=api.token))
    kube = open_kube(str(path))
    with contextlib.closing(kube):
        assert KubeNode(kube, "node-1").view().labels == {"zone": "a"}


def kubeconfig(**cluster_and_token: object) -> str:
    token = cluster_and_token.pop("token", "t")
    return json.dumps(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster_and_token}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        "[1]",
        "a: [}",
        "\tx",
        "a: b",
        '{"current-context": "c", "contexts": null}',
        '{"current-context": "c", "contexts": [1]}',
        kubeconfig(),
        kubeconfig(server=5),
        kubeconfig(server="nonsense"),
        kubeconfig(**{"server": "https://x", "certificate-authority": "/not/there"}),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(InvalidValue) as told:
        open_kube(str(path))
    assert str(told.value).startswith(f"kubeconfig {path} cannot be used: ")
    assert "\n" not in str(told.value)


def test_a_kubeconfig_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary", "."):
        with pytest.raises(InvalidValue, match="cannot be used: "):
            open_kube(str(tmp_path / name))


def test_outside_of_a_pod_and_without_a_kubeconfig_it_is_said_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NotSupported, match="not in a pod with a service account: give --kubeconfig"):
        open_kube(None)
