"""What every test of vfio-manager begins with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import add_card, add_other_gpu


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
