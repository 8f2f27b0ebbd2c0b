"""Only one process of a node changes modes."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.lock import mode_lock
from nodelib.errors import NodeError

_HOLDER = """
import sys
from pathlib import Path
from cc_manager.lock import mode_lock
with mode_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/cgpu-agents/cc-manager.lock"


def test_while_another_process_holds_it_the_message_says_what_to_do_instead(path: Path) -> None:
    with (
        held_by_another_process(path),
        pytest.raises(NodeError, match=f"another cc-manager on this node holds {path}: set the label nvidia.com"),
        mode_lock(path),
    ):
        pytest.fail("two held the lock")


def test_a_holder_that_is_killed_leaves_the_lock_free(path: Path) -> None:
    with held_by_another_process(path) as process:
        process.kill()
        process.wait()
        with mode_lock(path):
            assert path.exists()


def test_it_can_be_held_again_after_its_end_whatever_ended_it(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), mode_lock(path):
            raise KeyError
    with mode_lock(path):
        pass


def test_being_refused_leaves_no_descriptor_open(path: Path) -> None:
    with mode_lock(path):
        before = open_descriptors()
        for _ in range(3):
            with pytest.raises(NodeError), mode_lock(path):
                pytest.fail("two held the lock")
        assert open_descriptors() == before


def test_where_the_folder_cannot_be_made_the_message_says_so(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    path = tmp_path / "run/cgpu-agents/cc-manager.lock"
    with pytest.raises(NodeError, match=rf"cannot open the lock {path} \(Not a directory\)"), mode_lock(path):
        pytest.fail("locked what cannot be there")


def test_a_link_in_the_locks_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "somewhere-else")
    with pytest.raises(NodeError, match="cannot open the lock"), mode_lock(path):
        pytest.fail("followed a link")
    assert not (tmp_path / "somewhere-else").exists()
