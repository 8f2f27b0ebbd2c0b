"""The simulated API server's Events and pods, and what a test sees of the node's writes."""

from collections.abc import Iterator

import pytest
import urllib3

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.client import Client
from tests.fakes.kube.patch import JsonObject, JsonValue, text
from tests.fakes.kube.record import NodeState
from tests.fakes.kube.rules import ApiError

EVENTS = "/api/v1/namespaces/default/events"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={"mode": "on"}) as api:
        yield api


@pytest.fixture
def client(api: KubeApi) -> Iterator[Client]:
    client = Client(api)
    yield client
    client.close()


def event(**changes: JsonValue) -> JsonObject:
    base: JsonObject = {
        "metadata": {"generateName": "node-1."},
        "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": "node-1"},
        "type": "Warning",
        "reason": "ModeFailed",
        "message": "no answer from 0000:3b:00.0",
    }
    return base | changes


# Events: kubernetes, pkg/apis/core/validation/events.go.


def test_an_event_on_the_node_is_stored_under_a_generated_name(api: KubeApi, client: Client) -> None:
    created = [client.post(EVENTS, event()) for _ in range(2)]

    assert [answer.status for answer in created] == [201, 201]
    names = [text(answer.body, "metadata", "name") for answer in created]
    assert len(set(names)) == 2
    assert all(name.startswith("node-1.") for name in names)
    first, _ = api.events
    assert (first.namespace, first.type, first.reason) == ("default", "Warning", "ModeFailed")
    assert (first.about, first.message) == ("Node/node-1", "no answer from 0000:3b:00.0")


def test_events_can_be_listed_by_those_who_may(api: KubeApi, client: Client) -> None:
    client.post(EVENTS, event(metadata={"name": "one"}))
    client.post(EVENTS, event(metadata={"name": "two"}, reason="ModeChanged"))
    assert client.get("/api/v1/events").status == 403
    api.allow.add(("list", "events"))

    assert client.get("/api/v1/events").names == ["one", "two"]
    assert client.get(EVENTS, fieldSelector="reason=ModeChanged,involvedObject.kind=Node").names == ["two"]
    assert client.get("/api/v1/namespaces/kube-system/events").names == []


def test_an_event_on_a_pod_belongs_in_the_namespace_of_the_pod(api: KubeApi, client: Client) -> None:
    pod: JsonObject = {"kind": "Pod", "name": "pod-1", "namespace": "work"}

    assert client.post("/api/v1/namespaces/work/events", event(involvedObject=pod)).status == 201
    assert client.post(EVENTS, event(involvedObject=pod)).status == 422
    assert [event.namespace for event in api.events] == ["work"]


def test_an_event_on_a_node_belongs_in_the_default_namespace(client: Client) -> None:
    """A node has no namespace; an Event on it beside the agent's own pod is refused."""
    answer = client.post("/api/v1/namespaces/gpu-operator/events", event())

    assert (answer.status, answer.reason) == (422, "Invalid")
    assert "involvedObject.namespace" in text(answer.body, "message")


def test_an_event_with_an_event_time_must_name_its_reporter_and_action(client: Client) -> None:
    timed = event(eventTime="2026-01-01T00:00:00.000000Z")
    named = timed | {"reportingComponent": "cc-manager", "reportingInstance": "node-1", "action": "SetMode"}

    assert client.post(EVENTS, timed).status == 422
    assert client.post(EVENTS, named).status == 201
    assert client.post(EVENTS, named | {"message": "x" * 1025}).status == 422
    assert client.post(EVENTS, event(message="x" * 1025)).status == 201


@pytest.mark.parametrize("metadata", [{}, {"name": "Upper"}, {"name": "x" * 254}])
def test_an_event_without_a_proper_name_is_422(client: Client, metadata: JsonObject) -> None:
    assert client.post(EVENTS, event(metadata=metadata)).status == 422


def test_an_event_of_a_name_in_use_is_409(client: Client) -> None:
    named = event(metadata={"name": "one"})

    assert client.post(EVENTS, named).status == 201
    answer = client.post(EVENTS, named)
    assert (answer.status, answer.reason) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", event(kind="Node"), event(apiVersion="v2"), event(metadata={"name": "x", "namespace": "other"})],
)
def test_a_body_that_is_no_event_for_this_path_is_400(client: Client, body: bytes | JsonObject) -> None:
    assert client.post(EVENTS, body).status == 400


def test_an_event_without_a_namespace_in_the_path_is_400(client: Client) -> None:
    assert client.post("/api/v1/events", event()).status == 400


def test_an_event_in_another_format_is_415(client: Client) -> None:
    assert client.call("POST", EVENTS, event(), "text/plain").status == 415


# Pods.


def test_pods_are_listed_by_node_and_labels(api: KubeApi, client: Client) -> None:
    api.add_pod("validator", "gpu-operator", {"app": "validator", "tier": "node"})
    api.add_pod("plugin", "gpu-operator", {"app": "plugin"})
    api.add_pod("job", "work", {})
    api.add_pod("far", "work", {"app": "validator"}, node="node-2")
    on_node = "spec.nodeName=node-1"

    assert client.get("/api/v1/pods").names == ["validator", "plugin", "job", "far"]
    assert client.get("/api/v1/pods", fieldSelector=on_node).names == ["validator", "plugin", "job"]
    assert client.get("/api/v1/pods", fieldSelector=on_node, labelSelector="app=validator").names == ["validator"]
    assert client.get("/api/v1/pods", labelSelector="app==validator,tier").names == ["validator"]
    assert client.get("/api/v1/pods", labelSelector="app!=validator").names == ["plugin", "job"]
    assert client.get("/api/v1/pods", labelSelector="!app").names == ["job"]
    assert client.get("/api/v1/namespaces/work/pods", fieldSelector=on_node).names == ["job"]


def test_a_pod_that_is_gone_is_not_listed(api: KubeApi, client: Client) -> None:
    api.add_pod("job", "work", {})
    api.remove_pod("job", "work")

    assert client.get("/api/v1/pods").names == []


@pytest.mark.parametrize("selector", ["app in (a)", "!app=a", "=a", "a=b=c"])
def test_a_label_selector_that_is_not_understood_is_400(client: Client, selector: str) -> None:
    assert client.get("/api/v1/pods", labelSelector=selector).status == 400


# What a test sees.


def test_the_values_of_a_label_are_kept_in_the_order_of_the_writes(api: KubeApi, client: Client) -> None:
    client.merge_labels(state="")
    client.merge_labels(other="unrelated")
    client.merge_labels(state="off")
    api.set_label("state", None)

    assert api.history_of_labels("state") == [None, "", "off", None]
    assert api.history_of_labels("mode") == ["on"]


def test_a_hook_sees_every_write_and_no_patch_without_effect(api: KubeApi, client: Client) -> None:
    seen: list[NodeState] = []
    api.on_write.append(seen.append)
    client.merge_labels(state="off")
    client.merge_labels(state="off")
    client.merge_patch({"metadata": {"annotations": {"why": "asked"}}})
    client.post(EVENTS, event())

    assert [(dict(state.labels), dict(state.annotations)) for state in seen] == [
        ({"mode": "on", "state": "off"}, {}),
        ({"mode": "on", "state": "off"}, {"why": "asked"}),
    ]


def test_a_hook_may_write_in_turn(api: KubeApi, client: Client) -> None:
    """As a controller that follows the labels does."""
    api.on_write.append(lambda state: api.set_label("follows", state.labels["mode"]))
    client.merge_labels(mode="off")

    assert api.labels == {"mode": "off", "follows": "off"}


def test_an_invariant_that_breaks_in_the_server_fails_the_test() -> None:
    def check(state: NodeState) -> None:
        assert state.labels["mode"] == "on", "the mode changed"

    api = KubeApi(labels={"mode": "on"})
    api.on_write.append(check)
    api.start()
    client = Client(api)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        client.merge_labels(mode="off")
    client.close()

    with pytest.raises(AssertionError, match="the mode changed"):
        api.wait_until(lambda: False)
    with pytest.raises(AssertionError, match="the mode changed"):
        api.close()


def test_waiting_for_what_does_not_come_ends_in_an_error(api: KubeApi) -> None:
    with pytest.raises(TimeoutError):
        api.wait_until(lambda: False, timeout_s=0.01)


def test_an_administrators_label_is_validated_too(api: KubeApi) -> None:
    with pytest.raises(ApiError, match="not a valid label value"):
        api.set_label("mode", "two words")


def test_a_node_cannot_begin_with_labels_that_no_server_would_hold() -> None:
    with pytest.raises(ApiError, match="not a valid label value"):
        KubeApi(labels={"mode": "two words"})
