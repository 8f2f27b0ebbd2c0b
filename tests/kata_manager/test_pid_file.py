"""The process id, by which the manifests of an existing GPU operator see that kata-manager is alive."""

import os
from pathlib import Path

import pytest

from kata_manager.pid_file import NAME, pid_file
from nodelib.errors import NodeError


def test_it_is_there_while_the_daemon_is(tmp_path: Path) -> None:
    folder = tmp_path / "opt/artifacts"  # nobody made it yet
    with pid_file(str(folder)):
        assert (folder / NAME).read_text() == f"{os.getpid()}\n"
    assert list(folder.iterdir()) == []


def test_it_goes_when_the_daemon_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), pid_file(str(tmp_path)):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_dead_predecessor_is_replaced_and_that_of_a_successor_left(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("1\n")
    with pid_file(str(tmp_path)):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"
        (tmp_path / NAME).write_text("2\n")
    assert (tmp_path / NAME).read_text() == "2\n"


def test_without_a_folder_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pid_file(""):
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = r"cannot write .*/file/k8s-kata-manager.pid .* unset KATA_ARTIFACTS_DIR"
    with pytest.raises(NodeError, match=said), pid_file(str(tmp_path / "file")):
        pytest.fail("it began")
