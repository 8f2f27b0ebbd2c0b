"""The simulated API server's absences, and the faults that it can be told to have."""

import json
import os
import threading
from collections.abc import Iterator

import pytest
import urllib3

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.client import Client
from tests.fakes.kube.faults import Drop, Fault, Garble, Refuse
from tests.fakes.kube.rest import Target

BROKEN = urllib3.exceptions.HTTPError


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={"mode": "on"}) as api:
        yield api


@pytest.fixture
def client(api: KubeApi) -> Iterator[Client]:
    client = Client(api)
    yield client
    client.close()


# An API server that is away and returns.


def test_stopping_ends_open_watches_and_idle_connections_and_leaves_nothing_behind() -> None:
    threads, descriptors = threading.enumerate(), os.listdir("/proc/self/fd")  # noqa: PTH208 (no Path needed)
    with KubeApi() as api:
        client = Client(api)
        assert client.get(client.node).status == 200
        with client.watch() as events:
            assert next(events).type == "ADDED"
            api.stop()
            assert threading.enumerate() == threads
            with pytest.raises(BROKEN):
                next(events)
        client.close()

    assert os.listdir("/proc/self/fd") == descriptors  # noqa: PTH208 (as above)


def test_a_server_that_is_away_refuses_and_returns_on_the_same_port(api: KubeApi, client: Client) -> None:
    url = api.url
    for mode in ("off", "devtools"):
        api.stop()
        with pytest.raises(BROKEN):
            client.get(client.node)
        api.start()
        assert api.url == url
        assert client.merge_labels(mode=mode).labels == {"mode": mode}


def test_a_server_that_returns_knows_no_history(api: KubeApi, client: Client) -> None:
    """A new watch cache begins with its own list (cacher, getAllEventsSinceLocked)."""
    version = str(api.state.version)
    api.stop()
    api.set_label("mode", "off")
    api.start()

    with client.watch(resourceVersion=version) as events:
        assert next(events).is_too_old
    with client.watch(resourceVersion=client.get("/api/v1/nodes").version) as events:
        api.set_label("mode", "on")
        assert next(events).labels == {"mode": "on"}


def test_starting_twice_is_an_error_and_stopping_twice_is_none(api: KubeApi) -> None:
    with pytest.raises(RuntimeError, match="already started"):
        api.start()
    api.stop()
    api.stop()


# Faults.


def test_refusals_are_status_objects_and_pass(api: KubeApi, client: Client) -> None:
    api.faults.refuse(503, count=2)
    answers = [client.get(client.node) for _ in range(3)]

    assert [answer.status for answer in answers] == [503, 503, 200]
    assert (answers[0].body["kind"], answers[0].reason) == ("Status", "ServiceUnavailable")


def test_a_throttled_client_is_told_when_to_come_back(api: KubeApi, client: Client) -> None:
    api.faults.refuse(429, retry_after_s=7)
    answer = client.get(client.node)

    assert (answer.status, answer.reason, answer.headers["Retry-After"]) == (429, "TooManyRequests", "7")
    assert answer.body["details"] == {"retryAfterSeconds": 7}


def test_a_fault_waits_for_the_request_it_is_meant_for(api: KubeApi, client: Client) -> None:
    api.faults.refuse(500, verb="patch", resource="nodes")
    api.faults.refuse(503, verb="list")

    assert client.get(client.node).status == 200
    assert client.get("/api/v1/pods").status == 503
    assert client.get("/api/v1/pods").status == 200
    assert client.merge_labels(mode="off").status == 500
    assert api.labels == {"mode": "on"}
    assert client.merge_labels(mode="off").status == 200


def test_a_dropped_request_has_no_answer_and_no_effect(api: KubeApi, client: Client) -> None:
    api.faults.drop(verb="patch")
    with pytest.raises(BROKEN):
        client.merge_labels(mode="off")

    assert api.labels == {"mode": "on"}
    assert api.requests[-1].status == 0


def test_a_request_can_be_carried_out_and_its_answer_lost(api: KubeApi, client: Client) -> None:
    api.faults.drop(is_carried_out=True)
    with pytest.raises(BROKEN):
        client.merge_labels(mode="off")

    assert api.labels == {"mode": "off"}
    assert api.requests[-1].status == 200


@pytest.mark.parametrize("is_carried_out", [False, True])
def test_a_watch_can_be_dropped_as_it_opens(api: KubeApi, client: Client, is_carried_out: bool) -> None:
    api.faults.drop(verb="watch", is_carried_out=is_carried_out)
    with pytest.raises(BROKEN), client.watch():
        pass
    assert api.open_watches == 0


def test_a_garbled_answer_is_no_json(api: KubeApi, client: Client) -> None:
    api.faults.garble()
    with pytest.raises(json.JSONDecodeError):
        client.get(client.node)
    assert client.get(client.node).status == 200


def test_a_watch_can_be_garbled(api: KubeApi, client: Client) -> None:
    api.faults.garble(b"not an event\n", verb="watch")
    with client.watch() as events, pytest.raises(json.JSONDecodeError):
        next(events)


def test_waiting_faults_can_be_taken_back(api: KubeApi, client: Client) -> None:
    api.faults.refuse(500, count=9)
    api.faults.clear()

    assert client.get(client.node).status == 200


def test_faults_can_be_chosen_for_each_request(api: KubeApi, client: Client) -> None:
    faults: dict[str, Fault] = {"get": Refuse(500), "patch": Drop(is_carried_out=True), "list": Garble(b"{}")}

    def choose(target: Target) -> Fault | None:
        return faults.pop(target.verb, None)

    api.faults.choose = choose
    assert client.get(client.node).status == 500
    assert client.get("/api/v1/nodes").body == {}
    with pytest.raises(BROKEN):
        client.merge_labels(mode="off")
    assert client.get(client.node).labels == {"mode": "off"}
