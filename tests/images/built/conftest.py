"""Images for the tests of this folder, each built once: one worker runs them all (tests/conftest.py)."""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.agents import ROOT, agent
from tests.fakes.kernel import FakeKernel
from tests.images.built.base import Buildah, NotHere, buildah_with_base
from tests.images.built.building import REGISTRY, build
from tests.images.built.container import Image, mounted
from tests.kata_manager.builders import add_two_gpus


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(buildah_with_base(tmp_path_factory.mktemp("images")))
        except NotHere as reason:
            pytest.skip(f"images cannot be built here: {reason}")


@pytest.fixture(scope="session")
def image(buildah: Buildah) -> Callable[[str], Image]:
    """The image of an agent, built when it is first asked for, by the program behind `make images`."""
    built: dict[str, Image] = {}

    def of(name: str) -> Image:
        if name not in built:
            sys.stdout.write(build(buildah, ROOT, name, "first"))
            built[name] = mounted(buildah, f"{REGISTRY}/{agent(name).image}:first")
        return built[name]

    return of


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeKernel]:
    """Two GPUs that are bound already, so that no agent has anything to write to /sys."""
    with FakeKernel(tmp_path / "host") as kernel:
        add_two_gpus(kernel)
        yield kernel
        assert kernel.writes == []


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    folder = tmp_path / "service-account"
    folder.mkdir()
    (folder / "token").write_text("token")
    return folder


@pytest.fixture
def short_path() -> Iterator[Path]:
    """pytest's own folders have long names, and a socket's path has room for 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="images-"))
    yield path
    shutil.rmtree(path)
