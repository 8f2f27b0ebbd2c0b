"""The doors through which an agent meets its node."""

from pathlib import Path

import pytest

from nodelib.errors import InvalidValue, NotSupported
from nodelib.node import Node
from nodelib.pci import ConfigState
from nodelib.uevents import kernel_uevents
from tests.nodelib.samples import Tree, at


def test_the_real_node_is_scanned_below_its_root(tmp_path: Path) -> None:
    (Tree(tmp_path).add("3b", group=65) / "config").write_bytes(b"\xde\x10" + bytes(62))
    node = Node.at(tmp_path)
    assert node.events is kernel_uevents
    assert node.host.root == tmp_path
    assert node.scan().config == {}
    try:
        assert node.scan(with_config=True).config == {at("3b"): ConfigState.ANSWERS}
    finally:
        node.sysfs.close()


def test_a_root_without_sys_is_a_node_that_supports_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotSupported):
        Node.at(tmp_path).scan()


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue):
        Node.at(tmp_path / "absent")
