"""The program that writes for `kernel_writes`, spoken to as that does."""

import errno
import subprocess
import sys
from pathlib import Path

from nodelib import write_attribute


def write(*requests: tuple[Path, str, bytes]) -> list[int]:
    command = [sys.executable, "-I", "-S", write_attribute.__file__]
    text = "".join(f"{path}\t{offset}\t{data.hex()}\n" for path, offset, data in requests)
    answers = subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
    return [int(answer) for answer in answers.splitlines()]


def test_the_value_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "driver_override"
    path.write_text("something longer")
    assert write((path, "-", b"vfio-pci\n")) == [0]
    assert path.read_text() == "vfio-pci\n"


def test_bytes_at_an_offset_leave_the_rest_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(8))
    assert write((path, "4", b"\x06\x01")) == [0]
    assert path.read_bytes() == b"\0\0\0\0\x06\x01\0\0"


def test_nothing_is_created(tmp_path: Path) -> None:
    assert write((tmp_path / "reset", "-", b"1"), (tmp_path / "config", "4", b"1")) == [errno.ENOENT] * 2
    assert list(tmp_path.iterdir()) == []


def test_each_request_has_its_own_answer_and_one_that_fails_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bind"
    path.touch()
    full = Path("/dev/full")
    answers = write((tmp_path, "-", b"1"), (full, "-", b"1"), (path, "-", b"1"))
    assert answers == [errno.EISDIR, errno.ENOSPC, 0]
    assert path.read_text() == "1"
