"""What every test of kata-manager begins with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_manager.settings import VHOST_MODULES
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import add_two_gpus


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    """Two GPUs on vfio-pci, the first with an audio function in its group; nobody wrote a spec yet."""
    with FakeKernel(tmp_path) as kernel:
        add_two_gpus(kernel)
        for module in VHOST_MODULES:
            kernel.load_module(module)
        yield kernel
        assert kernel.writes == [], "kata-manager writes nothing to /sys"
