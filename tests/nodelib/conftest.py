"""What several tests of nodelib ask for."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.kube import ApiAccess, Kube
from tests.fakes.kube.api import KubeApi
from tests.nodelib.samples import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def root_logger_as_before() -> Iterator[None]:
    """Logging is set up for a whole process; the next test must not find it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={"nvidia.com/cc.mode": "on"}) as api:
        yield api


@pytest.fixture
def token_file(tmp_path: Path, api: KubeApi) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{api.token}\n")
    return path


@pytest.fixture
def kube(api: KubeApi, token_file: Path) -> Iterator[Kube]:
    kube = Kube(ApiAccess(api.url, token_file=str(token_file)))
    try:
        yield kube
    finally:
        kube.close()
