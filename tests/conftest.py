"""What every test begins with."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

IMAGES = "tests/images/built/"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Every test goes to whichever worker is free, but one worker takes all that need images, which it builds once.

    (xdist's own `--dist loadgroup` groups nothing with pytest 9.2: it writes the groups where that does not look.)
    """
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # published without types
        def _split_scope(self, nodeid: str) -> str:
            return IMAGES if nodeid.startswith(IMAGES) else nodeid

    return Scheduling(config, log)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where the machine has room there: a simulated node is hundreds of files, most of a test's time."""
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The commands set logging up for their whole process; the next test finds it as it was before."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
