"""`make lock` without an index: a program in uv's place, which answers or refuses as uv does."""

from pathlib import Path

import pytest
import uv

from images.lock import PLATFORMS, PYTHONS, write

CLICK = f"click==8.5.1 \\\n    --hash=sha256:{'0' * 64}\n"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("the old one\n")
    return path


def answer(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "uv"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setattr(uv, "find_uv_bin", lambda: str(program))


def test_a_lock_is_what_uv_answers_below_a_word_of_warning(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(f"cat <<'END'\n{CLICK}END", tmp_path, monkeypatch)
    write(lock, ["click>=8"])
    assert lock.read_text() == f"# Made by `make lock` from pyproject.toml and constraints.txt: do not edit.\n{CLICK}"
    first, *others = (tmp_path / "calls").read_text().splitlines()
    assert "--generate-hashes" in first
    assert len(others) == len(PYTHONS) * len(PLATFORMS)
    assert all("--only-binary :all:" in call for call in others)


def test_a_package_that_constraints_txt_does_not_pin_is_named_and_the_lock_stays(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("echo click==8.5.1; echo unheard-of==1.0", tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"needs unheard-of: put exact versions into constraints\.txt first"):
        write(lock, ["click>=8", "unheard-of"])
    assert lock.read_text() == "the old one\n"


def test_a_platform_without_wheels_is_named_and_the_lock_stays(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = 'case "$*" in *3.12*aarch64*) echo no wheels with a matching platform tag >&2; exit 1;; esac'
    answer(f"{refuse}\necho click==8.5.1", tmp_path, monkeypatch)
    said = "cannot be installed from wheels alone for Python 3.12 on aarch64-unknown-linux-gnu$"
    with pytest.raises(SystemExit, match=said):
        write(lock, ["click>=8"])
    assert lock.read_text() == "the old one\n"


def test_what_the_index_refuses_is_said_in_uvs_words(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("echo 'there is no version of click==99' >&2; exit 1", tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"no lock for requirements.lock:\nthere is no version of click==99"):
        write(lock, ["click==99"])
    assert lock.read_text() == "the old one\n"
