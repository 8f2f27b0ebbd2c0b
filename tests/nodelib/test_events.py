"""Kubernetes Events on the Node, posted to the simulated API server over HTTP.

DESIGN section 2 (optional, forbidden verbs); field problems 27 and 38.
"""

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodelib.errors import NodeError
from nodelib.event_reasons import EventReason, EventType
from nodelib.events import QUEUE_LENGTH, REPEAT_S, EventPoster, open_poster
from nodelib.kube import ApiAccess, Kube
from tests.fakes.kube.api import KubeApi
from tests.nodelib.kube_parts import field
from tests.nodelib.samples import DEADLINE_S, open_descriptors, wait_until
from tests.nodelib.scripted_server import serving

GONE = "0000:3b:00.0: the device left the bus"


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def poster(api: KubeApi, clock: Clock) -> Iterator[EventPoster]:
    poster = poster_to(api, clock)
    try:
        yield poster
    finally:
        poster.close(DEADLINE_S)
        wait_until(lambda: not posting_threads())


def poster_to(api: KubeApi, clock: Callable[[], float], node_name: str = "node-1") -> EventPoster:
    kube = Kube(ApiAccess(api.url, token=api.token))
    return EventPoster(lambda: kube, node_name, "vfio-manager", clock=clock, first_retry_s=0.01)


def event_reason(name: str, kind: EventType = EventType.NORMAL) -> EventReason:
    return EventReason(name, "It is posted by this test.", kind)


def posting_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "events"]


def until_posted(api: KubeApi, *reasons: str) -> None:
    api.wait_until(lambda: [event.reason for event in api.events] == list(reasons))


def until_there_are(api: KubeApi, count: int) -> None:
    api.wait_until(lambda: len(api.events) == count)


def until_asked(api: KubeApi, times: int = 1) -> None:
    """Until that many attempts were answered or cut off."""
    api.wait_until(lambda: len(api.requests) >= times)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def until_warned(caplog: pytest.LogCaptureFixture, times: int = 1) -> None:
    wait_until(lambda: len(warnings_in(caplog)) == times)


@contextmanager
def blocked(api: KubeApi) -> Iterator[None]:
    """The server gives no answer while this lasts: the poster has its first Event in hand and the rest waits."""
    with api.store.lock:
        yield


# --- what is posted


def test_an_event_has_what_kubectl_and_the_api_server_look_for(api: KubeApi, poster: EventPoster) -> None:
    poster.post(event_reason("DeviceGone", EventType.WARNING), GONE)
    until_posted(api, "DeviceGone")
    (event,) = api.events
    assert (event.namespace, event.type, event.message, event.about) == ("default", "Warning", GONE, "Node/node-1")
    assert event.body["involvedObject"] == {"kind": "Node", "name": "node-1", "uid": "node-1"}
    assert event.body["source"] == {"component": "vfio-manager", "host": "node-1"}
    assert event.body["reportingComponent"] == "vfio-manager"
    assert event.body["count"] == 1
    assert event.body["firstTimestamp"] == event.body["lastTimestamp"]
    seconds, _, fraction = str(event.body["eventTime"]).partition(".")
    assert f"{seconds}Z" == event.body["firstTimestamp"]
    assert len(fraction) == len("000000Z")  # Go's MicroTime takes exactly six digits


def test_without_a_word_an_event_is_normal(api: KubeApi, poster: EventPoster) -> None:
    poster.post(event_reason("ModeChanged"), "mode is on")
    until_posted(api, "ModeChanged")
    assert api.events[0].type == "Normal"


def test_events_come_in_the_order_in_which_they_were_posted(api: KubeApi, poster: EventPoster) -> None:
    reasons = [f"Reason{number}" for number in range(5)]
    for reason in reasons:
        poster.post(event_reason(reason), GONE)
    until_posted(api, *reasons)


@pytest.mark.parametrize("message", ["x" * 1024, "x" * 1025, "ü" * 600, "x" + "€" * 400, "\udc80" * 9, "\0", ""])
def test_a_message_of_any_kind_is_made_to_fit(api: KubeApi, poster: EventPoster, message: str) -> None:
    """The server's limit is one of bytes, and a cut inside a character would be no text."""
    poster.post(event_reason("DeviceGone"), message)
    until_posted(api, "DeviceGone")
    posted = api.events[0].message
    assert len(posted.encode()) <= 1024
    assert posted == message.replace("\udc80", "?") or (
        len(message.encode()) > 1024 and posted.endswith("...") and message.startswith(posted[:-3])
    )


@pytest.mark.parametrize("node_name", ["n" * 253, f"{'n' * 235}.{'m' * 17}", "10.0.0.1"])
def test_an_event_of_any_node_has_a_valid_name(api: KubeApi, clock: Clock, node_name: str) -> None:
    poster = poster_to(api, clock, node_name)
    poster.post(event_reason("DeviceGone"), GONE)
    until_posted(api, "DeviceGone")
    assert field(api.events[0].body, "involvedObject", "name") == node_name
    poster.close(DEADLINE_S)


# --- the same again


def test_the_same_is_not_posted_again_within_five_minutes(api: KubeApi, poster: EventPoster, clock: Clock) -> None:
    poster.post(event_reason("DeviceGone"), GONE)
    clock.now_s += REPEAT_S - 1
    poster.post(event_reason("DeviceGone"), GONE)
    poster.post(event_reason("DeviceGone"), "another device")
    poster.post(event_reason("DeviceHung"), GONE)
    until_posted(api, "DeviceGone", "DeviceGone", "DeviceHung")
    assert [event.message for event in api.events] == [GONE, "another device", GONE]
    clock.now_s += 1
    poster.post(event_reason("DeviceGone"), GONE)
    until_posted(api, "DeviceGone", "DeviceGone", "DeviceHung", "DeviceGone")


def test_what_is_remembered_is_bounded(api: KubeApi, poster: EventPoster) -> None:
    for number in range(300):
        poster.post(event_reason("DeviceGone"), f"{number}")
        if number % QUEUE_LENGTH == 0:  # none is dropped, which would forget it too
            until_there_are(api, number + 1)
    assert len(poster._posted_at) == 256


# --- refusals


def test_a_cluster_that_forbids_events_is_asked_once_and_warned_of_once(
    api: KubeApi, poster: EventPoster, caplog: pytest.LogCaptureFixture
) -> None:
    api.allow.discard(("create", "events"))
    poster.post(event_reason("DeviceGone"), GONE)
    until_asked(api)
    wait_until(lambda: not posting_threads())
    poster.post(event_reason("DeviceHung"), GONE)
    poster.close(DEADLINE_S)
    assert [request.status for request in api.requests] == [403]
    (warning,) = warnings_in(caplog)
    assert warning.startswith(
        "no more Kubernetes Events: the API server refused POST /api/v1/namespaces/default/events"
    )
    assert warning.endswith("allow `create` on `events` in namespace default")
    assert poster.dropped == 1


def test_an_event_that_the_server_finds_invalid_is_lost_and_the_next_is_posted(
    api: KubeApi, poster: EventPoster, caplog: pytest.LogCaptureFixture
) -> None:
    poster.post(event_reason("R" * 129), GONE)
    poster.post(event_reason("DeviceGone"), GONE)
    until_posted(api, "DeviceGone")
    assert [request.status for request in api.requests] == [422, 201]
    (warning,) = warnings_in(caplog)
    assert "422" in warning
    assert "reason" in warning
    assert poster.dropped == 1


# --- outages


def test_an_outage_is_logged_once_and_its_events_are_posted_afterwards(
    api: KubeApi, poster: EventPoster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for number in (1, 2):
        api.stop()
        poster.post(event_reason(f"First{number}"), GONE)
        until_warned(caplog, number)
        poster.post(event_reason(f"Second{number}"), GONE)
        api.start()
        until_there_are(api, 2 * number)
    until_posted(api, "First1", "Second1", "First2", "Second2")
    assert all(
        warning.startswith("cannot post Kubernetes Events for now, they are kept: no answer from the API server at")
        for warning in warnings_in(caplog)
    )
    wait_until(lambda: caplog.text.count("the API server takes Kubernetes Events again; lost so far: 0") == 2)
    assert poster.dropped == 0


@pytest.mark.parametrize("code", [401, 408, 429, 500, 503])
def test_a_server_that_refuses_for_a_while_gets_the_event_later(
    api: KubeApi, poster: EventPoster, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    api.faults.refuse(code, count=3)
    poster.post(event_reason("DeviceGone"), GONE)
    until_posted(api, "DeviceGone")
    assert [request.status for request in api.requests] == [code, code, code, 201]
    assert len(warnings_in(caplog)) == 1


def test_an_event_whose_answer_was_lost_is_posted_once(api: KubeApi, poster: EventPoster) -> None:
    api.faults.drop(is_carried_out=True)
    poster.post(event_reason("DeviceGone"), GONE)
    until_asked(api, 2)
    poster.close(DEADLINE_S)
    assert [request.status for request in api.requests] == [201, 409]
    assert [event.reason for event in api.events] == ["DeviceGone"]
    assert poster.dropped == 0


def test_an_answer_that_is_no_json_is_an_outage(api: KubeApi, poster: EventPoster) -> None:
    api.faults.garble()
    poster.post(event_reason("DeviceGone"), GONE)
    until_posted(api, "DeviceGone")


def test_a_token_that_no_header_can_hold_is_an_outage(api: KubeApi, clock: Clock, tmp_path: Path) -> None:
    """As the kubelet's token file would be if something else had written it."""
    token = tmp_path / "token"
    token.write_text("first\nsecond")
    kube = Kube(ApiAccess(api.url, token_file=str(token)))
    poster = EventPoster(lambda: kube, "node-1", "vfio-manager", clock=clock, first_retry_s=0.01)
    poster.post(event_reason("DeviceGone"), GONE)
    wait_until(lambda: poster._is_away)
    token.write_text(f"{api.token}\n")
    until_posted(api, "DeviceGone")
    poster.close(DEADLINE_S)


def test_in_a_long_outage_the_oldest_events_are_dropped_and_counted(
    api: KubeApi, poster: EventPoster, caplog: pytest.LogCaptureFixture
) -> None:
    api.stop()
    poster.post(event_reason("InHand"), GONE)
    until_warned(caplog)
    for number in range(QUEUE_LENGTH + 3):
        poster.post(event_reason(f"Waiting{number}"), GONE)
    assert poster.dropped == 3
    api.start()
    until_posted(api, "InHand", *(f"Waiting{number}" for number in range(3, QUEUE_LENGTH + 3)))


def test_what_was_dropped_may_be_posted_again_at_once(
    api: KubeApi, poster: EventPoster, caplog: pytest.LogCaptureFixture
) -> None:
    api.stop()
    poster.post(event_reason("InHand"), GONE)
    until_warned(caplog)
    for number in range(QUEUE_LENGTH + 1):
        poster.post(event_reason(f"Waiting{number}"), GONE)
    poster.post(event_reason("Waiting0"), GONE)
    api.start()
    until_posted(api, "InHand", *(f"Waiting{number}" for number in range(2, QUEUE_LENGTH + 1)), "Waiting0")


# --- the end


def test_closing_posts_what_waits(api: KubeApi, clock: Clock) -> None:
    poster = poster_to(api, clock)
    with blocked(api):
        for number in range(5):
            poster.post(event_reason(f"Reason{number}"), GONE)
    poster.close(DEADLINE_S)
    assert [event.reason for event in api.events] == [f"Reason{number}" for number in range(5)]
    assert posting_threads() == []
    poster.post(event_reason("TooLate"), GONE)
    poster.close(DEADLINE_S)
    assert len(api.events) == 5
    assert poster.dropped == 0


def test_closing_during_an_outage_gives_up(api: KubeApi, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    kube = Kube(ApiAccess(api.url, token=api.token))
    poster = EventPoster(lambda: kube, "node-1", "vfio-manager", clock=clock, first_retry_s=3600.0)
    api.stop()
    poster.post(event_reason("InHand"), GONE)
    until_warned(caplog)
    poster.post(event_reason("Waiting"), GONE)
    poster.close(DEADLINE_S)
    assert posting_threads() == []
    assert poster.dropped == 2


def test_closing_does_not_wait_for_a_server_that_never_answers(clock: Clock) -> None:
    with serving(b"", hold=True) as server:
        poster = EventPoster(lambda: Kube(ApiAccess(server.url)), "node-1", "vfio-manager", clock=clock)
        poster.post(event_reason("InHand"), GONE)
        wait_until(lambda: server.requests)
        poster.post(event_reason("Waiting"), GONE)
        poster.close(0.01)
        assert len(posting_threads()) == 1  # it is left behind, and ends with its request
        assert poster.dropped == 1
    wait_until(lambda: not posting_threads())
    assert poster.dropped == 2


def test_closing_leaves_no_connection_behind(api: KubeApi, clock: Clock) -> None:
    before = open_descriptors()
    poster = poster_to(api, clock)
    poster.post(event_reason("DeviceGone"), GONE)
    poster.close(DEADLINE_S)
    until_posted(api, "DeviceGone")
    wait_until(lambda: open_descriptors() <= before)


def test_a_poster_that_was_never_used_is_closed_too(api: KubeApi, clock: Clock) -> None:
    poster_to(api, clock).close()
    assert posting_threads() == []


# --- with and without access


def test_without_access_everything_works_and_nothing_happens() -> None:
    poster = EventPoster(None, "node-1", "vfio-manager")
    poster.post(event_reason("DeviceGone"), GONE)
    poster.close()
    assert posting_threads() == []
    assert poster.dropped == 0


@pytest.mark.parametrize(
    ("environment", "node_name", "reason"),
    [
        ({}, "node-1", "not in a pod"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "node-1", "this pod has no service account token"),
        ({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, "", "the node's name is not known (NODE_NAME)"),
    ],
)
def test_a_missing_access_is_said_once(
    environment: dict[str, str], node_name: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poster = open_poster(environment, node_name, "vfio-manager", str(tmp_path))
    for _ in range(2):
        poster.post(event_reason("DeviceGone"), GONE)
    poster.close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"no Kubernetes Events will be posted: {reason}")
    ]


def test_only_an_event_is_worth_the_import_of_urllib3(tmp_path: Path) -> None:
    """14 MiB. A pod without a service account token has the variables all the same."""
    script = (
        "import sys; from nodelib.events import open_poster; from nodelib.event_reasons import EventReason\n"
        "environment = {'KUBERNETES_SERVICE_HOST': '127.0.0.1', 'KUBERNETES_SERVICE_PORT': '1'}\n"
        "poster = open_poster(environment, 'node-1', 'vfio-manager', sys.argv[1])\n"
        "print('urllib3' in sys.modules); poster.post(EventReason('A', 'B.'), 'C'); poster.close(20.0)\n"
        "print('urllib3' in sys.modules)"
    )
    (tmp_path / "token").touch()
    for folder, imported in ((tmp_path / "absent", ["False", "False"]), (tmp_path, ["False", "True"])):
        command = [sys.executable, "-c", script, str(folder)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == imported


def test_an_access_that_is_gone_at_the_first_event_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "token").touch()
    poster = open_poster({"KUBERNETES_SERVICE_HOST": "127.0.0.1"}, "node-1", "vfio-manager", str(tmp_path))
    (tmp_path / "token").unlink()
    poster.post(event_reason("DeviceGone"), GONE)
    wait_until(lambda: poster.dropped == 1)
    assert "no Kubernetes Events will be posted: not in a pod with a service account" in caplog.text
    poster.post(event_reason("DeviceGone"), GONE)
    poster.close(DEADLINE_S)
    assert poster.dropped == 1


def test_a_pod_with_access_posts_to_its_api_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which is away here: the address in the warning is that of the pod's environment."""
    (tmp_path / "token").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port}
    poster = open_poster(environment, "node-1", "vfio-manager", str(tmp_path))
    poster.post(event_reason("DeviceGone"), GONE)
    until_warned(caplog)
    poster.close(DEADLINE_S)
    assert f"no answer from the API server at https://127.0.0.1:{port}" in caplog.text


# --- the server's own rules, which the tests above lean on


@pytest.mark.parametrize("field_name", ["reportingComponent", "reportingInstance", "action", "reason"])
def test_the_server_takes_no_event_with_a_time_and_without_what_that_needs(
    api: KubeApi, clock: Clock, field_name: str
) -> None:
    """kubernetes, pkg/apis/core/validation/events.go."""
    kube = Kube(ApiAccess(api.url, token=api.token))
    poster = EventPoster(lambda: kube, "node-1", "vfio-manager", clock=clock)
    poster.post(event_reason("DeviceGone"), GONE)
    until_posted(api, "DeviceGone")
    poster.close(DEADLINE_S)
    body = {key: value for key, value in api.events[0].body.items() if key != field_name} | {
        "metadata": {"name": "second", "namespace": "default"}
    }
    with pytest.raises(NodeError, match=f"422 .*{field_name}"):
        kube.post("/api/v1/namespaces/default/events", body)
    kube.close()
