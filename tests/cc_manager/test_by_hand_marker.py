"""A change by hand while the daemon is away: what it verified before is believed no more."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.by_hand import set_by_hand
from cc_manager.by_hand_marker import BY_HAND_FILE, leave_marker, still_believed
from cc_manager.cluster import labels
from cc_manager.mode import CcMode
from cc_manager.observation import Verified
from cc_manager.settings import WhenBusy
from nodelib.errors import NodeError
from nodelib.files import HostRoot
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import QUICK, CcNode

GPU = PciAddress(0, 0x1B, 0, 0)
FAIL = replace(QUICK, when_busy=WhenBusy.FAIL)
LONG_AGO, STILL_TO_COME = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Verified on and published so, by a daemon that is away now."""
    with CcNode(tmp_path, labels={labels.MODE: "on"}) as node:
        assert node.manager().round().ready
        yield node


def marker(node: CcNode) -> Path:
    return node.node.host.resolve(BY_HAND_FILE)


def as_if_long_ago(path: Path) -> None:
    path.write_text(f"{LONG_AGO}\n")


def entries(node: CcNode) -> dict[str, dict[str, str]]:
    found = json.loads(node.api.annotations[labels.DEVICES])
    assert isinstance(found, dict)
    return found


def test_after_a_change_by_hand_a_device_that_a_vm_opened_meanwhile_counts_as_never_verified(node: CcNode) -> None:
    assert set_by_hand(node.setter(), CcMode.OFF, ()).ok
    with node.kernel.start_vm(*node.addresses):
        node.assert_all_in("off")
        result = node.manager().round()
        assert (result.ready, result.retry) == (False, True)
        assert "in use by a virtual machine" in result.message
        assert node.api.labels[labels.READY] == ""
        assert labels.parse_verified(node.api.annotations[labels.DEVICES]) == {}
    assert node.manager().round().ready
    node.assert_all_in("on")
    node.assert_says("on")


def test_what_the_daemon_verified_after_the_change_by_hand_holds(node: CcNode) -> None:
    assert set_by_hand(node.setter(), CcMode.OFF, ()).ok
    as_if_long_ago(marker(node))
    assert node.manager().round().ready
    with node.kernel.start_vm(*node.addresses):
        assert node.manager().round().ready
        node.assert_says("on")


def test_the_marker_is_there_before_anything_is_staged(node: CcNode) -> None:
    staged_without: list[PciAddress] = []

    def at_access(address: PciAddress, offset: int, value: int | None) -> None:
        if any(not device.knobs[8] for device in node.devices.values()) and not marker(node).exists():
            staged_without.append(address)

    node.on_access.append(at_access)
    assert set_by_hand(node.setter(), CcMode.OFF, ()).ok
    assert (staged_without, marker(node).exists()) == ([], True)


def test_without_a_marker_nothing_is_changed(node: CcNode) -> None:
    marker(node).mkdir(parents=True)
    resets = node.resets()
    with pytest.raises(NodeError, match=r"cannot write .*cc-manager\.by-hand \(Is a directory\)"):
        set_by_hand(node.setter(), CcMode.OFF, ())
    node.assert_all_in("on")
    assert node.resets() == resets


def test_where_nothing_is_to_be_done_or_nothing_can_be_no_marker_is_left(node: CcNode) -> None:
    assert set_by_hand(node.setter(), CcMode.ON, ()).ok
    with node.kernel.start_vm(*node.addresses):
        assert not set_by_hand(node.setter(FAIL), CcMode.OFF, ()).ok
        assert not marker(node).exists()
        assert node.manager().round().ready


def test_putting_back_what_was_left_staged_leaves_a_marker_too(node: CcNode) -> None:
    left, busy = node.addresses
    node.devices[left].knobs[8] = 0
    with node.kernel.start_vm(busy):
        assert not set_by_hand(node.setter(FAIL), CcMode.OFF, ()).ok
    assert node.devices[left].knobs[8] == 1
    assert marker(node).exists()


@pytest.mark.parametrize("content", ["", "yesterday", "\x00\xff", f"{STILL_TO_COME}\n", "2020-13-01T00:00:00Z\n"])
def test_a_marker_that_tells_no_time_lets_nothing_be_believed_until_it_is_verified_anew(
    node: CcNode, content: str
) -> None:
    marker(node).parent.mkdir(parents=True, exist_ok=True)
    marker(node).write_bytes(content.encode("latin-1"))
    with node.kernel.start_vm(*node.addresses):
        assert not node.manager().round().ready
        assert node.api.labels[labels.READY] == ""
    as_if_long_ago(marker(node))  # it was replaced by one of now; this one spares the test a second
    assert node.manager().round().ready
    before = node.api.annotations[labels.DEVICES]
    with node.kernel.start_vm(*node.addresses):
        assert node.manager().round().ready
    assert node.api.annotations[labels.DEVICES] == before


def test_a_marker_that_tells_no_time_is_replaced_by_one_of_now(tmp_path: Path) -> None:
    host = HostRoot(tmp_path)
    leave_marker(host)
    path = host.resolve(BY_HAND_FILE)
    path.write_text("yesterday")
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert still_believed(host, {GPU: Verified(CcMode.ON, LONG_AGO, "b")}) == {}
    assert before <= path.read_text().strip() <= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@pytest.mark.parametrize(
    ("entry", "is_believed"),
    [
        ("2020-01-01T00:00:01Z", True),
        (LONG_AGO, False),  # the same second
        ("2019-12-31T23:59:59Z", False),
        (STILL_TO_COME, False),
        ("12:00", False),
        ("", False),
    ],
)
def test_only_what_is_younger_than_the_marker_is_believed(tmp_path: Path, entry: str, is_believed: bool) -> None:
    host = HostRoot(tmp_path)
    verified = {GPU: Verified(CcMode.ON, entry, "b")}
    assert still_believed(host, verified) == verified
    leave_marker(host)
    as_if_long_ago(host.resolve(BY_HAND_FILE))
    assert still_believed(host, verified) == (verified if is_believed else {})


def test_an_entry_of_before_is_written_anew_once_the_device_is_verified(node: CcNode) -> None:
    text = json.dumps({address: {**entry, "time": LONG_AGO} for address, entry in entries(node).items()})
    node.api.patch_node({"metadata": {"annotations": {labels.DEVICES: text}}})
    marker(node).parent.mkdir(parents=True, exist_ok=True)
    marker(node).write_text("2020-01-01T00:00:05Z\n")
    assert node.manager().round().ready
    assert all(entry["time"] > LONG_AGO for entry in entries(node).values())
