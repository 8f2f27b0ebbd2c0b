"""The node object in the API server: read and patched, and what can go wrong with that."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.cluster.labels import NodeView
from cc_manager.mode import CcMode
from nodelib.kube import ApiAccess, ApiError, Kube
from tests.fakes.kube.api import KubeApi

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
    with pytest.raises(ApiError, match=r'refused PATCH .*: 403 .*cannot patch resource "nodes"'):
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
    with pytest.raises(ApiError, match=r"the API server('s answer| answered)") as told:
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
