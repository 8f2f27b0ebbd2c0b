"""The simulated API server's nodes, and whom it lets do what."""

from collections.abc import Iterator

import pytest

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.client import Client
from tests.fakes.kube.patch import section, text

CC_MODE = "nvidia.com/cc.mode"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={CC_MODE: "on", "other": "kept"}) as api:
        yield api


@pytest.fixture
def client(api: KubeApi) -> Iterator[Client]:
    client = Client(api)
    yield client
    client.close()


# Reading.


def test_a_node_is_read_with_its_labels_version_and_uid(api: KubeApi, client: Client) -> None:
    node = client.get(client.node)

    assert node.status == 200
    assert (node.body["kind"], node.body["apiVersion"]) == ("Node", "v1")
    assert node.labels == {CC_MODE: "on", "other": "kept"}
    assert node.version == str(api.state.version)
    assert text(node.body, "metadata", "uid")


def test_a_node_that_is_not_there_is_404(client: Client) -> None:
    answer = client.get("/api/v1/nodes/node-2")

    assert answer.status == 404
    assert answer.body == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'nodes "node-2" not found',
        "reason": "NotFound",
        "details": {"name": "node-2", "kind": "nodes"},
        "code": 404,
    }


def test_a_list_carries_the_version_to_watch_from_and_items_without_a_kind(api: KubeApi, client: Client) -> None:
    api.add_pod("pod-1", "default", {})  # raises the version beyond the node's own
    listed = client.get("/api/v1/nodes", fieldSelector="metadata.name=node-1")

    assert listed.body["kind"] == "NodeList"
    assert listed.names == ["node-1"]
    assert int(listed.version) > api.state.version
    items = listed.body["items"]
    assert isinstance(items, list)
    assert "kind" not in section(items[0])


def test_a_list_of_another_name_is_empty(client: Client) -> None:
    assert client.get("/api/v1/nodes", fieldSelector="metadata.name=node-2").names == []


def test_a_field_that_the_kind_cannot_be_selected_by_is_400(client: Client) -> None:
    assert client.get("/api/v1/nodes", fieldSelector="spec.nodeName=node-1").status == 400


def test_a_connection_is_kept_for_the_next_request(client: Client) -> None:
    assert client.get(client.node).status == 200
    assert client.get("/api/v1/nodes/node-2").status == 404
    assert client.merge_labels(x="1").status == 200
    assert client._pool.num_connections == 1


# Who may do what.


@pytest.mark.parametrize("token", [None, "another"])
def test_a_client_without_the_expected_token_is_401(client: Client, token: str | None) -> None:
    client.token = token
    answer = client.get(client.node)

    assert (answer.status, answer.reason) == (401, "Unauthorized")


def test_a_client_goes_on_with_the_new_token_after_a_rotation(api: KubeApi, client: Client) -> None:
    api.token = "second-token"
    assert client.get(client.node).status == 401
    client.token = "second-token"
    assert client.get(client.node).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/v1/nodes/node-1"),
        ("PUT", "/api/v1/nodes/node-1"),
        ("PATCH", "/api/v1/nodes/node-1/status"),
        ("POST", "/api/v1/namespaces/default/pods"),
        ("GET", "/api/v1/namespaces/default/pods/pod-1"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces"),
        ("GET", "/api/v1/namespaces/default"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/lock"),
        ("GET", "/metrics"),
    ],
)
def test_what_the_role_does_not_allow_is_403(client: Client, method: str, path: str) -> None:
    answer = client.call(method, path)

    assert (answer.status, answer.reason) == (403, "Forbidden")
    assert answer.body["kind"] == "Status"


def test_a_right_can_be_taken_away_and_given(api: KubeApi, client: Client) -> None:
    api.allow.discard(("patch", "nodes"))
    assert client.merge_labels(x="1").status == 403
    assert "x" not in api.labels
    api.allow.add(("patch", "nodes"))
    assert client.merge_labels(x="1").status == 200


def test_a_right_in_one_namespace_holds_only_there(api: KubeApi, client: Client) -> None:
    api.allow.discard(("list", "pods"))
    api.allow.add(("list", "pods", "gpu-operator"))

    assert client.get("/api/v1/namespaces/gpu-operator/pods").status == 200
    assert client.get("/api/v1/namespaces/default/pods").status == 403
    assert client.get("/api/v1/pods").status == 403


def test_an_allowed_resource_that_is_not_served_is_404_and_an_unknown_verb_405(api: KubeApi, client: Client) -> None:
    api.allow |= {("get", "leases"), ("delete", "nodes")}

    assert client.get("/apis/coordination.k8s.io/v1/namespaces/default/leases/lock").status == 404
    assert client.call("DELETE", client.node).status == 405


def test_every_request_is_kept_in_the_words_of_rbac(api: KubeApi, client: Client) -> None:
    client.get("/api/v1/nodes", fieldSelector="metadata.name=node-1")
    client.merge_patch(b'{"metadata": {}}')
    api.allow.discard(("create", "pods/eviction"))
    client.post("/api/v1/namespaces/kube-system/pods/pod-1/eviction", {})
    listed, patched, evicted = api.requests

    assert (listed.verb, listed.resource, listed.name, listed.status) == ("list", "nodes", "node-1", 200)
    assert listed.query == {"fieldSelector": "metadata.name=node-1"}
    assert (patched.verb, patched.resource, patched.name) == ("patch", "nodes", "node-1")
    assert (patched.content_type, patched.body) == ("application/merge-patch+json", b'{"metadata": {}}')
    assert (evicted.verb, evicted.resource, evicted.namespace) == ("create", "pods/eviction", "kube-system")
    assert evicted.status == 403
