"""Wake-ups from files that come, go or change, by the kernel's own inotify."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.folders import FolderWatch, watched_folders
from nodelib.wakeups import Wakeups
from tests.nodelib.samples import DEADLINE_S


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "device-plugins"
    folder.mkdir()
    return folder


class Watched:
    """A folder that is watched, and what was told of it."""

    def __init__(self, wakeups: Wakeups, folder: Path) -> None:
        self._wakeups = wakeups
        self._folder = folder

    def tells(self, *names: str) -> bool:
        """Whether exactly these files of the folder are told to have changed, in one wake-up or several."""
        wanted = {f"{self._folder}/{name}" for name in names}
        told: set[str] = set()
        while not wanted <= told:
            reasons = self._wakeups.wait(DEADLINE_S)
            assert reasons, f"waited in vain for {wanted - told}"
            told.update(reasons)
        return told == wanted


@pytest.fixture
def watched(folder: Path) -> Iterator[Watched]:
    wakeups = Wakeups()
    with watched_folders(wakeups, [folder, folder, folder.parent / "absent"]) as is_noticed:
        assert is_noticed
        yield Watched(wakeups, folder)
    assert "folders" not in {thread.name for thread in threading.enumerate()}


def test_every_kind_of_change_is_noticed(folder: Path, watched: Watched) -> None:
    """Field problem 1: the kubelet removes every socket of the folder and creates its own anew."""
    os.mkfifo(folder / "kubelet.sock")  # like a socket, it is never closed after writing
    assert watched.tells("kubelet.sock")
    (folder / "kubelet.sock").rename(folder / "other")
    assert watched.tells("kubelet.sock", "other")
    (folder / "other").unlink()
    assert watched.tells("other")
    outside = folder.parent / "spec.tmp"
    outside.write_text("content")
    outside.rename(folder / "spec.yaml")
    assert watched.tells("spec.yaml")
    (folder / "spec.yaml").write_text("changed")
    assert watched.tells("spec.yaml")


def test_the_end_of_the_folder_itself_is_noticed(folder: Path, watched: Watched) -> None:
    shutil.rmtree(folder)
    assert watched.tells("")


def test_a_folder_that_was_made_anew_is_followed_after_a_refresh(tmp_path: Path) -> None:
    folder, wakeups = tmp_path / "cdi", Wakeups()
    watch = FolderWatch(wakeups, lambda: [folder])
    assert not watch.refresh(), "nobody listens yet"
    with watch:
        folder.mkdir()
        assert watch.refresh()
        assert not watch.refresh()
        (folder / "a").touch()
        assert f"{folder}/a" in wakeups.wait(DEADLINE_S)
        shutil.rmtree(folder)
        assert wakeups.wait(DEADLINE_S)
        folder.mkdir()
        assert watch.refresh()
        (folder / "b").touch()
        assert f"{folder}/b" in wakeups.wait(DEADLINE_S)


def test_where_no_folder_is_there_nothing_will_be_noticed(tmp_path: Path) -> None:
    with watched_folders(Wakeups(), [tmp_path / "absent"]) as is_noticed:
        assert not is_noticed
