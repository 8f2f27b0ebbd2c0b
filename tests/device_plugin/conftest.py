"""What every test of device-plugin begins with: a small node in a folder with a short path, and a kubelet."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device_plugin.small_node import SmallNode
from tests.fakes.kubelet import Kubelet


@pytest.fixture
def short_path() -> Iterator[Path]:
    """pytest's own folders have long names, and a socket's path has room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="dp-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def small(short_path: Path) -> Iterator[SmallNode]:
    node = SmallNode(short_path)
    yield node
    node.node.sysfs.close()


@pytest.fixture
def kubelet(small: SmallNode) -> Iterator[Kubelet]:
    with Kubelet(small.plugins, small.root / "pods") as running:
        yield running
        assert running.complaints == []
