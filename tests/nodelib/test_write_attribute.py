"""The program that writes for `kernel_writes`, spoken to as that does."""

import errno
import subprocess
import sys
from pathlib import Path

from nodelib import write_attribute


def ask(*questions: tuple[Path, str, bytes]) -> list[int]:
    """The answers of one program to *questions*: a path, an offset or `-`, and the bytes."""
    lines = "".join(f"{path}\t{offset}\t{data.hex()}\n" for path, offset, data in questions)
    command = [sys.executable, "-I", "-S", write_attribute.__file__]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=lines)
    return [int(answer) for answer in done.stdout.splitlines()]


def test_the_value_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "driver_override"
    path.write_text("something longer")
    assert ask((path, "-", b"vfio-pci\n")) == [0]
    assert path.read_text() == "vfio-pci\n"


def test_a_binary_file_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(8))
    assert ask((path, "4", b"\x06\x01")) == [0]
    assert path.read_bytes() == b"\0\0\0\0\x06\x01\0\0"


def test_nothing_is_created(tmp_path: Path) -> None:
    assert ask((tmp_path / "reset", "-", b"1"), (tmp_path / "config", "4", b"1")) == [errno.ENOENT] * 2
    assert list(tmp_path.iterdir()) == []


def test_the_errno_of_opening_and_of_writing_is_passed_on(tmp_path: Path) -> None:
    assert ask((tmp_path, "-", b"1"), (Path("/dev/full"), "-", b"1")) == [errno.EISDIR, errno.ENOSPC]


def test_one_program_answers_many_questions_in_order(tmp_path: Path) -> None:
    path = tmp_path / "reset"
    path.touch()
    assert ask((path, "-", b"1"), (tmp_path / "absent", "-", b"1"), (path, "-", b"2")) == [0, errno.ENOENT, 0]
    assert path.read_text() == "2"
