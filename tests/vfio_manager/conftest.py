"""What every test of vfio-manager begins with."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import add_card, add_other_gpu


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where the machine has room there: a simulated node is hundreds of files, most of a test's time."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    """Two GPUs on `nvidia`, the first with an audio function in its group."""
    with FakeKernel(tmp_path) as kernel:
        add_card(kernel)
        add_other_gpu(kernel)
        yield kernel
        assert kernel.complaints == []


@pytest.fixture
def bare_kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    """A node on which nothing is plugged in yet."""
    with FakeKernel(tmp_path) as kernel:
        yield kernel
        assert kernel.complaints == []


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The commands set logging up for their whole process; the next test finds it as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
