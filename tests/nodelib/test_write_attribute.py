"""The one write, as the program that `kernel_writes` runs and as the function that it calls."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nodelib import write_attribute

Write = Callable[[Path, str], int]


def in_a_child(path: Path, value: str) -> int:
    command = [sys.executable, "-I", "-S", write_attribute.__file__, str(path), value]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def here(path: Path, value: str) -> int:
    return write_attribute.write_attribute(str(path), value)


@pytest.fixture(params=[in_a_child, here], ids=["child", "here"])
def write(request: pytest.FixtureRequest) -> Write:
    chosen: Write = request.param
    return chosen


def test_the_value_takes_the_place_of_what_was_there(tmp_path: Path, write: Write) -> None:
    path = tmp_path / "driver_override"
    path.write_text("something longer")
    assert write(path, "vfio-pci\n") == 0
    assert path.read_text() == "vfio-pci\n"


def test_nothing_is_created(tmp_path: Path, write: Write) -> None:
    assert write(tmp_path / "reset", "1") == errno.ENOENT
    assert list(tmp_path.iterdir()) == []


def test_the_errno_of_opening_and_of_writing_is_passed_on(tmp_path: Path, write: Write) -> None:
    assert write(tmp_path, "1") == errno.EISDIR
    assert write(Path("/dev/full"), "1") == errno.ENOSPC
