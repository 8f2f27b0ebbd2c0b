"""Writes with a deadline, by the real child process. DESIGN section 2; field problem 15."""

import errno
import os
import sys
from pathlib import Path

import pytest

from nodelib.errors import DeviceHung
from nodelib.kernel_writes import KernelWriter
from tests.nodelib import stuck_writer
from tests.nodelib.samples import DEADLINE_S, at, wait_until

GPU, OTHER = at("3b"), at("9b")


def is_free(writer: KernelWriter, path: Path) -> bool:
    """Whether the device takes a write, now that the process of an earlier one may have ended."""
    try:
        writer.write(GPU, path, "free", DEADLINE_S)
    except DeviceHung:
        return False
    return True


def test_a_write_lands_in_the_attribute(tmp_path: Path) -> None:
    path = tmp_path / "unbind"
    path.write_text("something longer than an address")
    KernelWriter().write(GPU, path, "0000:3b:00.0")
    assert path.read_text() == "0000:3b:00.0"


def test_configuration_space_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(8))
    KernelWriter().write_at(GPU, path, 4, b"\x06\x01")
    assert path.read_bytes() == b"\0\0\0\0\x06\x01\0\0"


def test_the_kernels_errno_and_the_path_are_passed_on(tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "absent", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind) as caught:
            KernelWriter().write(GPU, path, "1")
        assert caught.value.filename == str(path)
        with pytest.raises(kind):
            KernelWriter().write_at(GPU, path, 4, b"1")
    assert list(tmp_path.iterdir()) == []


def test_the_writes_of_a_session_share_one_process(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.touch()
    script = "import os, sys\nfor _ in sys.stdin: open(sys.argv[1], 'a').write(f'{os.getpid()} '); print(0, flush=True)"
    writer = KernelWriter((sys.executable, "-c", script, str(path)))
    with writer.session(GPU):
        writer.write(GPU, path, "1")
        writer.write(OTHER, path, "1")
        writer.write(GPU, path, "1")
    writer.write(GPU, path, "1")
    first, other, again, later = path.read_text().split()
    assert first == again
    assert len({first, other, later}) == 3
    assert not any(Path("/proc", pid).exists() for pid in (first, other, later))
    assert writer._children == {}


def test_a_refused_write_does_not_end_the_session(tmp_path: Path) -> None:
    path = tmp_path / "reset"
    path.touch()
    writer = KernelWriter()
    with writer.session(GPU):
        with pytest.raises(FileNotFoundError):
            writer.write(GPU, tmp_path / "absent", "1")
        writer.write(GPU, path, "2")
    assert path.read_text() == "2"


def test_a_child_that_dies_without_an_answer_is_an_error_and_no_success(tmp_path: Path) -> None:
    writer = KernelWriter((sys.executable, "-c", "import sys; sys.stdin.readline()"))
    with pytest.raises(OSError, match="the process that writes died") as caught:
        writer.write(GPU, tmp_path / "reset", "1", DEADLINE_S)
    assert caught.value.errno == errno.EIO


def test_a_write_that_never_returns_ends_at_the_deadline(tmp_path: Path) -> None:
    """To open a FIFO for writing waits for a reader, as `unbind` waits for the user of a VFIO device."""
    path, other = tmp_path / "unbind", tmp_path / "other"
    os.mkfifo(path)
    other.touch()
    writer = KernelWriter()
    with pytest.raises(
        DeviceHung, match=r"0000:3b:00\.0: the kernel did not finish the write to .*/unbind within 0\.1 s"
    ):
        writer.write(GPU, path, "0000:3b:00.0", 0.1)
    wait_until(lambda: is_free(writer, other))


def test_a_session_in_which_a_write_hung_goes_on_once_the_kernel_let_go(tmp_path: Path) -> None:
    path, other = tmp_path / "unbind", tmp_path / "other"
    os.mkfifo(path)
    other.touch()
    writer = KernelWriter()
    with writer.session(GPU):
        with pytest.raises(DeviceHung):
            writer.write(GPU, path, "0000:3b:00.0", 0.1)
        wait_until(lambda: is_free(writer, other))
    assert other.read_text() == "free"


def test_a_device_gets_no_second_write_while_the_kernel_holds_the_first_and_others_do(tmp_path: Path) -> None:
    """A process inside the kernel dies only when the kernel lets go."""
    release, path = tmp_path / "release", tmp_path / "reset"
    os.mkfifo(release)
    path.touch()
    writer = KernelWriter((sys.executable, stuck_writer.__file__, str(release)))
    try:
        # Long enough for the child to have got stuck, on a busy machine too.
        with pytest.raises(DeviceHung, match="did not finish the write"):
            writer.write(GPU, path, stuck_writer.STUCK, 1.0)
    except OSError as error:
        pytest.skip(f"no process can be made to outlive SIGKILL here ({error})")
    try:
        with pytest.raises(DeviceHung, match=r"the kernel still holds an earlier write \(process \d+\)"):
            writer.write(GPU, path, "2")
        with pytest.raises(DeviceHung, match="still holds an earlier write"):
            writer.write_at(GPU, path, 0, b"2")
        with writer.session(GPU), pytest.raises(DeviceHung, match="still holds an earlier write"):
            writer.write(GPU, path, "2")
        assert path.read_text() == ""
        writer.write(OTHER, path, "other", DEADLINE_S)
        assert path.read_text() == "other"
    finally:
        with release.open("wb"):
            pass
    wait_until(lambda: is_free(writer, path))
    assert path.read_text() == "free"
