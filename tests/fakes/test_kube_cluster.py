"""The simulated cluster around the API server: DaemonSets that follow labels, evictions, roles, reviews of rights."""

import itertools
from collections.abc import Iterator

import pytest

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.client import Client, Response
from tests.fakes.kube.patch import JsonObject, JsonValue, section, text
from tests.fakes.kube.roles import EVENTS_ROLE, UNDER_OPERATOR_ROLE

OPERATOR = "gpu-operator"
DEPLOY = "nvidia.com/gpu.deploy.vfio-manager"
PODS = f"/api/v1/namespaces/{OPERATOR}/pods"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={DEPLOY: "true"}) as api:
        yield api


@pytest.fixture
def client(api: KubeApi) -> Iterator[Client]:
    client = Client(api)
    yield client
    client.close()


def pods(client: Client) -> list[str]:
    return client.get(PODS).names


def evict(client: Client, name: str, namespace: str = "default", **more: JsonValue) -> Response:
    metadata: JsonObject = {"name": name, "namespace": namespace}
    body: JsonObject = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": metadata, **more}
    return client.post(f"/api/v1/namespaces/{namespace}/pods/{name}/eviction", body)


# --- DaemonSets


@pytest.mark.parametrize("by_affinity", [False, True])
def test_a_daemon_sets_pod_comes_and_goes_with_the_label(api: KubeApi, client: Client, by_affinity: bool) -> None:
    api.cluster.add_daemon_set("nvidia-vfio-manager", OPERATOR, selects={DEPLOY: "true"}, by_affinity=by_affinity)
    (first,) = pods(client)
    api.set_label(DEPLOY, "paused-for-cc-mode-change")
    assert pods(client) == []
    api.set_label(DEPLOY, "true")
    (second,) = pods(client)
    assert first != second
    assert first.startswith("nvidia-vfio-manager-")


def test_a_daemon_sets_pod_names_its_owner_and_keeps_the_node_selector_but_not_the_affinity(api: KubeApi) -> None:
    api.cluster.add_daemon_set("by-selector", OPERATOR, selects={DEPLOY: "true"})
    api.cluster.add_daemon_set("by-affinity", OPERATOR, selects={DEPLOY: "true"}, by_affinity=True)
    client = Client(api)
    items = client.get(PODS).body["items"]
    client.close()
    assert isinstance(items, list)
    by_selector, by_affinity = items
    assert section(by_selector, "spec", "nodeSelector") == {DEPLOY: "true"}
    assert section(by_affinity, "spec").keys() == {"nodeName", "containers"}
    owners = [section(pod, "metadata")["ownerReferences"] for pod in items]
    assert [text(owner[0], "kind") for owner in owners if isinstance(owner, list)] == ["DaemonSet", "DaemonSet"]


def test_a_pod_that_lingers_is_terminating_until_it_has_ended(api: KubeApi, client: Client) -> None:
    api.cluster.add_daemon_set("nvidia-vfio-manager", OPERATOR, selects={DEPLOY: "true"})
    api.cluster.pods_linger = True
    (name,) = pods(client)
    with client.watch(PODS, resourceVersion=client.get(PODS).version, timeoutSeconds="10") as events:
        api.set_label(DEPLOY, "false")
        assert pods(client) == [name]
        api.cluster.end_pod(OPERATOR, name)
        two = itertools.islice(events, 2)
        seen = [(event.type, bool(text(event.object, "metadata", "deletionTimestamp"))) for event in two]
    assert seen == [("MODIFIED", True), ("DELETED", True)]
    assert pods(client) == []


def test_a_daemon_sets_pod_that_ends_by_itself_is_replaced(api: KubeApi, client: Client) -> None:
    api.cluster.add_daemon_set("nvidia-vfio-manager", OPERATOR, selects={DEPLOY: "true"})
    (first,) = pods(client)
    api.remove_pod(first, OPERATOR)
    assert len(pods(client)) == 1
    assert pods(client) != [first]


# --- evictions: kubernetes, pkg/registry/core/pod/storage/eviction.go


def test_an_evicted_pod_ends_and_those_who_listen_are_told(api: KubeApi, client: Client) -> None:
    ended: list[tuple[str, str]] = []
    api.cluster.on_pod_end.append(lambda namespace, name: ended.append((namespace, name)))
    api.add_pod("vm", "default", {})
    assert evict(client, "vm").status == 201
    assert ended == [("default", "vm")]
    assert evict(client, "vm").status == 404


def test_an_eviction_that_the_budget_forbids_is_429_until_it_allows_it(api: KubeApi, client: Client) -> None:
    api.add_pod("vm", "default", {"app": "a"})
    budget = api.add_budget("default", {"app": "a"}, allowed=0)
    refused = evict(client, "vm")
    assert (refused.status, refused.reason) == (429, "TooManyRequests")
    assert "disruption budget" in text(refused.body, "message")
    budget.allowed = 1
    assert evict(client, "vm").status == 201
    assert budget.allowed == 0


def test_a_pod_under_two_budgets_cannot_be_evicted(api: KubeApi, client: Client) -> None:
    api.add_pod("vm", "default", {"app": "a", "tier": "b"})
    api.add_budget("default", {"app": "a"}, allowed=1)
    api.add_budget("default", {"tier": "b"}, allowed=1)
    assert evict(client, "vm").status == 500


def test_an_eviction_of_another_pod_of_that_name_is_a_conflict(api: KubeApi, client: Client) -> None:
    api.add_pod("vm", "default", {})
    assert evict(client, "vm", deleteOptions={"preconditions": {"uid": "another"}}).status == 409


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "Eviction", "apiVersion": "v1", "metadata": {"name": "vm"}},
        {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "another"}},
    ],
)
def test_an_eviction_that_is_none_is_refused(api: KubeApi, client: Client, body: JsonObject) -> None:
    api.add_pod("vm", "default", {})
    assert client.post("/api/v1/namespaces/default/pods/vm/eviction", body).status == 400


# --- rights


def review(client: Client, **attributes: str) -> Response:
    spec: JsonObject = {"resourceAttributes": {**attributes}}
    body: JsonObject = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec}
    return client.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)


def test_a_client_may_ask_what_it_may_do(api: KubeApi, client: Client) -> None:
    asked = {
        True: (
            {"verb": "patch", "resource": "nodes"},
            {"verb": "create", "resource": "pods", "subresource": "eviction"},
        ),
        False: ({"verb": "delete", "resource": "nodes"}, {"verb": "patch", "resource": "pods"}),
    }
    for held, questions in asked.items():
        for question in questions:
            answer = review(client, **question)
            assert answer.status == 201
            assert section(answer.body, "status")["allowed"] is held, question


def test_a_right_in_one_namespace_is_told_for_that_one(api: KubeApi, client: Client) -> None:
    api.allow.clear()
    api.allow |= UNDER_OPERATOR_ROLE
    for namespace, held in ((OPERATOR, True), ("default", False), ("", False)):
        answer = review(client, verb="list", resource="pods", namespace=namespace)
        assert section(answer.body, "status")["allowed"] is held


def test_each_client_has_its_own_role(api: KubeApi, client: Client) -> None:
    api.roles["vfio-manager"] = EVENTS_ROLE
    client.token = "vfio-manager"
    assert client.get(client.node).status == 403
    assert client.merge_labels(x="1").status == 403
    client.token = "nobody"
    assert client.get(client.node).status == 401
    client.token = api.token
    assert client.get(client.node).status == 200
