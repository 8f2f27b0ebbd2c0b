"""What every test of kata-manager begins with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import add_two_gpus


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    """Two GPUs on vfio-pci, the first with an audio function in its group; nobody wrote a spec yet."""
    with FakeKernel(tmp_path) as kernel:
        add_two_gpus(kernel)
        yield kernel
        assert kernel.writes == [], "kata-manager writes nothing to /sys"
