"""Mapping BAR0, and what an administrator reads where the kernel forbids it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from cc_manager.errors import Bar0Refused
from cc_manager.gpu.bar0 import BAR0_SIZE, Bar0, MapError, MapWords, Words, open_bar0
from nodelib.errors import DeviceGone
from tests.cc_manager.scripted import ADDRESS


@pytest.fixture
def resource0(tmp_path: Path) -> Path:
    """A file as long as a GPU's BAR0, sparse."""
    path = tmp_path / "resource0"
    path.touch()
    os.truncate(path, BAR0_SIZE)
    return path


class RecordedWords:
    """Words that can be read and written one at a time, and nothing else."""

    def __init__(self) -> None:
        self.words = {0x200BC // 4: 0xFF}

    def __getitem__(self, index: int, /) -> int:
        return self.words[index]

    def __setitem__(self, index: int, value: int, /) -> None:
        self.words[index] = value


def failing(error: OSError) -> MapWords:
    def map_words(path: Path) -> AbstractContextManager[Words]:
        raise error

    return map_words


def refusal(path: Path, error: OSError, lockdown: str | None = None) -> str:
    with (
        pytest.raises(Bar0Refused) as caught,
        open_bar0(ADDRESS, path, lockdown=lockdown, map_words=failing(error)),
    ):
        pytest.fail("a BAR that cannot be mapped was opened")
    return str(caught.value)


def test_registers_are_the_little_endian_words_of_the_file_at_their_offset(resource0: Path) -> None:
    with open_bar0(ADDRESS, resource0) as bar0:
        bar0.write32(0x12004C, 0x0102_0304)
        bar0.write32(BAR0_SIZE - 4, 0xFFFF_FFFE)
        assert bar0.read32(0x12004C) == 0x0102_0304
        assert bar0.read32(BAR0_SIZE - 4) == 0xFFFF_FFFE
        assert bar0.read32(0x0) == 0
    with resource0.open("rb") as file:
        file.seek(0x12004C)
        assert file.read(4) == bytes([4, 3, 2, 1])


def test_a_write_by_somebody_else_is_seen(resource0: Path) -> None:
    with open_bar0(ADDRESS, resource0) as ours, open_bar0(ADDRESS, resource0) as theirs:
        theirs.write32(0x8F2C10, 0x800)
        assert ours.read32(0x8F2C10) == 0x800


def test_a_switch_with_twice_the_bar_is_mapped_as_far_as_it_is_used(resource0: Path) -> None:
    os.truncate(resource0, 2 * BAR0_SIZE)
    with open_bar0(ADDRESS, resource0) as bar0, pytest.raises(ValueError, match="0x1000000 is no register"):
        bar0.read32(BAR0_SIZE)


def test_registers_cannot_be_touched_after_the_mapping_was_closed(resource0: Path) -> None:
    with open_bar0(ADDRESS, resource0) as bar0:
        pass
    with pytest.raises(ValueError, match="released"):
        bar0.read32(0x0)


def test_nothing_stays_open(resource0: Path) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with open_bar0(ADDRESS, resource0):
        pass
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert str(resource0) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_words_of_another_kind_can_be_handed_in(resource0: Path) -> None:
    recorded = RecordedWords()

    @contextmanager
    def map_words(path: Path) -> Iterator[Words]:
        assert path == resource0
        yield recorded

    with open_bar0(ADDRESS, resource0, map_words=map_words) as bar0:
        assert bar0.read32(0x200BC) == 0xFF
        bar0.write32(0x122204, 2)
    assert recorded.words == {0x200BC // 4: 0xFF, 0x122204 // 4: 2}


@pytest.mark.parametrize("offset", [1, 2, 3, 0x200BD, -4, BAR0_SIZE])
def test_an_offset_that_is_no_register_is_refused_before_any_access(offset: int) -> None:
    bar0 = Bar0(RecordedWords())
    with pytest.raises(ValueError, match="is no register"):
        bar0.read32(offset)
    with pytest.raises(ValueError, match="is no register"):
        bar0.write32(offset, 0)


def test_lockdown_as_a_kernel_does_it_the_file_opens_and_mmap_says_eperm() -> None:
    """A memory file sealed against writing behaves so (memfd_create(2)), as sysfs does under lockdown."""
    descriptor = os.memfd_create("resource0", os.MFD_ALLOW_SEALING)
    try:
        os.truncate(descriptor, BAR0_SIZE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        path = Path(f"/proc/self/fd/{descriptor}")
        with pytest.raises(Bar0Refused) as caught, open_bar0(ADDRESS, path, lockdown="integrity"):
            pytest.fail("a sealed file was mapped for writing")
        assert str(caught.value).startswith("0000:3b:00.0: kernel lockdown (integrity) forbids mapping BAR0 from /proc")
        assert "boot the host without lockdown" in str(caught.value)
    finally:
        os.close(descriptor)


def test_without_knowing_the_lockdown_the_message_says_where_to_look(resource0: Path) -> None:
    text = refusal(resource0, MapError(errno.EPERM, "Operation not permitted"))
    assert "kernel lockdown (see /sys/kernel/security/lockdown) forbids mapping BAR0" in text


def test_a_bar_that_a_driver_owns_names_the_agent_that_takes_it_away(resource0: Path) -> None:
    text = refusal(resource0, MapError(errno.EINVAL, "Invalid argument"))
    assert text == (
        f"0000:3b:00.0: a driver owns BAR0, {resource0} (EINVAL from mmap); bind it first: vfio-manager bind"
    )


def test_eperm_from_open_is_a_sandbox_and_not_lockdown(resource0: Path) -> None:
    text = refusal(resource0, OSError(errno.EPERM, "Operation not permitted"), lockdown="integrity")
    assert "a sandbox or virtual machine forbids opening BAR0" in text
    assert "lockdown" not in text


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "run as root"),
        (errno.EROFS, "mount the host's /sys writable"),
        (errno.ENOENT, "resource0 does not exist"),
        (errno.EIO, "open of"),
    ],
)
def test_other_failures_to_open_say_what_to_do(resource0: Path, number: int, remedy: str) -> None:
    assert remedy in refusal(resource0, OSError(number, os.strerror(number)))


def test_a_bar_that_is_too_short_says_how_short(tmp_path: Path) -> None:
    path = tmp_path / "resource0"
    path.write_bytes(bytes(4096))
    with (
        pytest.raises(Bar0Refused, match=r"mmap of .*/resource0 failed \(it has 4096 bytes, fewer than 16777216\)"),
        open_bar0(ADDRESS, path),
    ):
        pytest.fail("a file of one page was mapped")


def test_a_device_whose_folder_vanished_is_gone(tmp_path: Path) -> None:
    with (
        pytest.raises(DeviceGone, match=r"^0000:3b:00\.0: the device left the bus$"),
        open_bar0(ADDRESS, tmp_path / "0000:3b:00.0" / "resource0"),
    ):
        pytest.fail("a device that is not there was opened")


def test_an_error_of_the_one_who_uses_the_registers_is_not_ours(resource0: Path) -> None:
    with pytest.raises(OSError, match="theirs") as caught, open_bar0(ADDRESS, resource0):
        raise OSError(errno.EPERM, "theirs")
    assert type(caught.value) is PermissionError
