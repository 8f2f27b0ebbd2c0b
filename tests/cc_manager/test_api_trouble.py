"""The API server is away, refuses or talks nonsense: the daemon says so, goes on, and the node keeps its last mode."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cc_manager.assemble import Cluster, assemble
from cc_manager.cluster import labels
from nodelib.kube import ApiAccess, ApiError, Kube
from tests.cc_manager.running import RunningManager
from tests.cc_manager.simulated import CcNode
from tests.fakes.kube.faults import Drop, Fault, Refuse
from tests.fakes.kube.rest import Target
from tests.fakes.polling import until

OFTEN_S = 0.02


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    with CcNode(tmp_path, gpus=2, labels={labels.MODE: "off"}) as node:
        yield node


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the loop said was wrong."""
    return [r.getMessage() for r in caplog.records if r.name == "nodelib.daemon" and r.levelno == logging.WARNING]


def refused(code: int) -> Callable[[CcNode], None]:
    return lambda node: node.api.faults.refuse(code, count=3, verb="get")


def garbled(body: bytes) -> Callable[[CcNode], None]:
    return lambda node: node.api.faults.garble(body, count=3, verb="get")


TROUBLES: dict[str, tuple[Callable[[CcNode], None], str]] = {
    "unauthorized": (refused(401), "the API server refused GET /api/v1/nodes/node-1: 401 the server is told"),
    "forbidden": (refused(403), "the API server refused GET /api/v1/nodes/node-1: 403 the server is told"),
    "conflict": (refused(409), "the API server refused GET /api/v1/nodes/node-1: 409 the server is told"),
    "too many requests": (refused(429), "the API server refused GET /api/v1/nodes/node-1: 429 the server is told"),
    "internal error": (refused(500), "the API server refused GET /api/v1/nodes/node-1: 500 the server is told"),
    "dropped": (lambda node: node.api.faults.drop(count=3, verb="get"), "no answer from the API server at http://"),
    "no JSON": (garbled(b"<html>"), "the API server's answer to /api/v1/nodes/node-1 is no JSON object: b'<html>'"),
    "no node": (garbled(b"{}"), "the API server answered with a node that has no metadata"),
}


@pytest.mark.parametrize(("begin", "says"), TROUBLES.values(), ids=TROUBLES.keys())
def test_field_27_the_loop_says_what_is_wrong_in_one_sentence_and_goes_on(
    node: CcNode, caplog: pytest.LogCaptureFixture, begin: Callable[[CcNode], None], says: str
) -> None:
    begin(node)
    with RunningManager(node, interval_s=OFTEN_S):
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "off")
    (message,) = messages(caplog)  # three times the same is said once
    assert message.startswith(says)
    assert "\n" not in message
    node.assert_says("off")


def test_field_27_an_api_server_that_is_absent_at_the_start_is_waited_for(
    node: CcNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.api.stop()
    with RunningManager(node, interval_s=OFTEN_S) as running:
        until(lambda: bool(messages(caplog)))
        assert running.is_alive
        assert node.accesses == [0, 0]
        node.api.start()
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "off")
    assert messages(caplog)[0].startswith(f"no answer from the API server at {node.api.url}")


def test_field_27_while_the_api_server_is_away_the_node_keeps_its_mode(
    node: CcNode, caplog: pytest.LogCaptureFixture
) -> None:
    with RunningManager(node, interval_s=OFTEN_S):
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "off")
        node.api.stop()
        node.want("on")  # as the API server will have it when it is back
        until(lambda: bool(messages(caplog)))
        node.assert_all_in("off")
        node.api.start()
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "on")
    node.assert_all_in("on")


def test_a_token_that_is_not_taken_any_more_leaves_the_node_as_it_is_until_there_is_a_new_one(
    node: CcNode, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first-token")
    kube = Kube(ApiAccess(node.api.url, token_file=str(token)))
    manager = assemble(node.setter(), Cluster(kube, "node-1"), clock=node.time.clock)
    assert manager.round().ready
    node.api.token = "second-token"
    node.want("on")
    with pytest.raises(ApiError, match="401 Unauthorized"):
        manager.round()
    node.assert_all_in("off")
    token.write_text("second-token")
    assert manager.round().ready
    node.assert_says("on")
    kube.close()


def test_a_node_that_does_not_exist_is_named_and_its_devices_are_not_touched(node: CcNode) -> None:
    node.api.remove_node()
    with pytest.raises(ApiError, match='404 nodes "node-1" not found'):
        node.manager().round()
    assert node.accesses == [0, 0]
    node.api.add_node({labels.MODE: "on"})
    assert node.manager().round().ready
    node.assert_says("on")


# --- between reading and writing


PATCH_TROUBLES: dict[str, Fault] = {
    "forbidden": Refuse(403),
    "conflict": Refuse(409),
    "too many requests": Refuse(429, retry_after_s=1),
    "internal error": Refuse(500),
    "dropped": Drop(),
    "dropped after it was carried out": Drop(is_carried_out=True),
}


class OnPatch:
    """Lets the *nth* patch meet *fault*."""

    def __init__(self, node: CcNode, nth: int, fault: Fault) -> None:
        self._left = nth
        self._fault = fault
        node.api.faults.choose = self._choose

    def _choose(self, target: Target) -> Fault | None:
        if target.verb != "patch":
            return None
        self._left -= 1
        return self._fault if self._left == 0 else None


@pytest.mark.parametrize("fault", PATCH_TROUBLES.values(), ids=PATCH_TROUBLES.keys())
def test_without_having_said_that_it_changes_no_device_is_changed(node: CcNode, fault: Fault) -> None:
    manager = node.manager()
    manager.round()
    node.want("on")
    OnPatch(node, 1, fault)
    with pytest.raises(ApiError):
        manager.round()
    node.assert_all_in("off")
    assert node.resets() == []
    assert manager.round().ready
    node.assert_all_in("on")
    node.assert_says("on")


@pytest.mark.parametrize("fault", PATCH_TROUBLES.values(), ids=PATCH_TROUBLES.keys())
def test_a_result_that_could_not_be_published_is_published_by_the_next_round(node: CcNode, fault: Fault) -> None:
    manager = node.manager()
    manager.round()
    node.want("on")
    OnPatch(node, 2, fault)
    with pytest.raises(ApiError):
        manager.round()
    node.assert_all_in("on")
    assert not (node.node.host.root / "run/nvidia/validations/.cc-manager-ctr-ready").exists()
    resets = node.resets()
    assert manager.round().ready
    node.assert_says("on")
    assert node.resets() == resets, "what was done is not done again"


def test_rbac_that_forbids_patching_is_told_by_name_and_nothing_is_changed(node: CcNode) -> None:
    node.api.allow.discard(("patch", "nodes"))
    with pytest.raises(ApiError, match='cannot patch resource "nodes"'):
        node.manager().round()
    assert node.resets() == []
    assert [device.knob_writes for device in node.devices.values()] == [[], []]


def test_field_27_a_daemon_whose_watch_is_forbidden_follows_the_label_by_its_timer(node: CcNode) -> None:
    node.api.allow -= {("watch", "nodes"), ("list", "nodes")}
    with RunningManager(node, interval_s=OFTEN_S):
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "off")
        node.want("on")
        node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "on")
    node.assert_says("on")
