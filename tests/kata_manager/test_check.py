"""`check`: each seeded fault is found, with its file and what to do; what is right is left in peace. Issue 4, proof."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kata_manager.cli import cli
from nodelib.cli import run_command
from tests.data.cdi_samples import BAD, GOOD
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import PGPU, TWO_GPUS, entry, folder_of, foreign_spec, put, write

Capture = pytest.CaptureFixture[str]
Finding = dict[str, str]
OTHER = "vendor.com-thing.yaml"


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def checked(kernel: FakeKernel, capsys: Capture, *args: str) -> list[tuple[str, Finding]]:
    """Every finding with its file, as programs get them; the exit code is what they come to, and people see each."""
    code = run_command(cli, ["check", "-o", "json", *args], obj=kernel.node())
    captured = capsys.readouterr()
    assert captured.err == ""
    found = [(row["file"], finding) for row in json.loads(captured.out) for finding in row["findings"]]
    assert code == int(any(finding["severity"] == "error" for _, finding in found))
    assert run_command(cli, ["check", *args], obj=kernel.node()) == code
    flowing = " ".join(capsys.readouterr().out.split())
    for path, finding in found:
        assert finding["remedy"]
        assert " ".join(f"{finding['severity']} {path}: {finding['text']}; {finding['remedy']}".split()) in flowing
    return found


def nodes(kernel: FakeKernel, *paths: str) -> None:
    for path in paths:
        place = kernel.host.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


# --- nothing wrong


def test_our_own_specs_are_right(kernel: FakeKernel, capsys: Capture) -> None:
    write(kernel)
    assert checked(kernel, capsys) == []
    assert run_command(cli, ["check"], obj=kernel.node()) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["RESULT", "FILE", "KIND", "NAMES"]
    assert row.split() == ["ok", str(folder_of(kernel) / PGPU), "nvidia.com/pgpu", "6"]


def test_no_spec_at_all_is_nothing_wrong(kernel: FakeKernel, capsys: Capture) -> None:
    assert run_command(cli, ["check"], obj=kernel.node()) == 0
    assert capsys.readouterr().out == "there is no CDI spec\n"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_a_good_spec_of_anybody_has_no_error_but_for_what_this_host_lacks(
    kernel: FakeKernel, path: Path, capsys: Capture
) -> None:
    put(kernel, path.name, path.read_text())
    found = checked(kernel, capsys)
    assert {finding["code"] for _, finding in found if finding["severity"] == "error"} <= {"no-node"}


# --- seeded faults


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_a_bad_spec_is_found_broken(kernel: FakeKernel, path: Path, capsys: Capture) -> None:
    write(kernel)
    bad = put(kernel, path.name, path.read_text())
    ((file, finding),) = checked(kernel, capsys)
    assert (file, finding["code"]) == (str(bad), "broken")


def spec_with(**node: object) -> str:
    device = {"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/thing"} | node]}}
    return json.dumps({"cdiVersion": "0.5.0", "kind": "vendor.com/thing", "devices": [device]})


def _put(name: str, content: str) -> Callable[[FakeKernel], object]:
    return lambda kernel: put(kernel, name, content)


def _chmod(mode: int) -> Callable[[FakeKernel], object]:
    return lambda kernel: (folder_of(kernel) / PGPU).chmod(mode)


def _chmod_folder(mode: int) -> Callable[[FakeKernel], object]:
    return lambda kernel: folder_of(kernel).chmod(mode)


def _link(target: str) -> Callable[[FakeKernel], object]:
    return lambda kernel: (folder_of(kernel) / OTHER).symlink_to(target)


def _static(content: str) -> Callable[[FakeKernel], object]:
    def place(kernel: FakeKernel) -> None:
        (kernel.host.root / "etc/cdi").mkdir(parents=True)
        (kernel.host.root / "etc/cdi/static.yaml").write_text(content)

    return place


def _old_leftover(kernel: FakeKernel) -> None:
    os.utime(put(kernel, f".{PGPU}.a1b2.tmp", ""), (0, 0))


VFIO_NODES = foreign_spec("vendor.com/thing", {"a": "/dev/vfio/65"})
SEEDED: list[tuple[str, str, Callable[[FakeKernel], object], str]] = [
    # code, severity, how it comes about, words of the message
    (
        "no-node",
        "error",
        _put(OTHER, foreign_spec("v.com/c", {"a": "/dev/nix", "b": "/dev/nix"})),
        "there is no /dev/nix",
    ),
    ("no-node", "error", _put(OTHER, foreign_spec("v.com/c", {"a": "/dev/vfio/9"})), "vfio-manager bind"),
    ("other-node", "error", _put(OTHER, spec_with(type="b")), "/dev/thing is not of type b"),
    (
        "duplicate-name",
        "error",
        _put(OTHER, foreign_spec("nvidia.com/pgpu", {"65": "/dev/vfio/65"})),
        "nvidia.com/pgpu=65",
    ),
    ("shadowed-name", "warning", _static(TWO_GPUS), "nvidia.com/pgpu=0 and 5 more"),
    ("file-mode", "error", _chmod(0o666), "not only its owner may write it (0666)"),
    ("file-mode", "warning", _chmod(0o600), "not everybody may read it (0600)"),
    ("folder-mode", "error", _chmod_folder(0o777), "not only its owner may write to it (0777)"),
    ("folder-mode", "warning", _chmod_folder(0o700), "not everybody may read it (0700)"),
    ("broken", "error", _link("nowhere"), "a link to nowhere"),
    ("broken", "error", lambda kernel: os.mkfifo(folder_of(kernel) / OTHER), "no regular file"),
    ("unread-name", "warning", _put("vendor.yml", VFIO_NODES), "no runtime reads it"),
    ("not-json", "warning", _put("vendor.json", VFIO_NODES), "it is YAML in a .json file"),
    ("leftover", "warning", _old_leftover, "a write that was cut short left it"),
    ("new-version", "warning", _put(OTHER, VFIO_NODES.replace("0.6.0", "1.0.0")), "write 0.3.0, which is enough"),
    ("bare-name", "warning", _put(OTHER, VFIO_NODES.replace("name: a", "name: 65")), "write it in quotes: '65'"),
    (
        "not-a-device",
        "error",
        _put(OTHER, f"cdiVersion: 0.5.0\nkind: v.com/c\ndevices:\n{entry('a', '/dev/vfio/65', '/dev/vfio/vfio')}"),
        "Kata would take /dev/vfio/vfio for a device",
    ),
    (
        "both-interfaces",  # facts/field-problems.md, row 9
        "error",
        _put(
            OTHER,
            f"cdiVersion: 0.5.0\nkind: v.com/c\ndevices:\n{entry('a', '/dev/vfio/65', '/dev/vfio/devices/vfio0')}",
        ),
        "so Kata plugs the device twice",
    ),
    (
        "no-file",
        "warning",
        _put(
            OTHER,
            VFIO_NODES.replace("deviceNodes:", "hooks: [{hookName: prestart, path: /nix}]\n    deviceNodes:"),
        ),
        "hooks[0]: there is no /nix on this host",
    ),
]


@pytest.mark.parametrize(
    ("code", "severity", "seed", "words"), SEEDED, ids=[f"{number}-{code}" for number, (code, *_) in enumerate(SEEDED)]
)
def test_each_seeded_fault_is_found_and_nothing_else(
    kernel: FakeKernel, code: str, severity: str, seed: Callable[[FakeKernel], object], words: str, capsys: Capture
) -> None:
    write(kernel)
    nodes(kernel, "dev/thing", "dev/vfio/vfio", "dev/vfio/devices/vfio0")
    seed(kernel)
    ((_, finding),) = checked(kernel, capsys)
    assert (finding["code"], finding["severity"]) == (code, severity)
    assert words in f"{finding['text']}; {finding['remedy']}"


def test_a_link_to_a_right_spec_is_told(kernel: FakeKernel, capsys: Capture) -> None:
    (kernel.host.root / "vendor").write_text(VFIO_NODES)
    folder_of(kernel).mkdir(parents=True)
    (folder_of(kernel) / OTHER).symlink_to("/vendor")  # of the host, so inside its root
    ((file, finding),) = checked(kernel, capsys)
    assert (file, finding["code"], finding["severity"]) == (str(folder_of(kernel) / OTHER), "link", "warning")


def test_a_device_of_other_numbers_than_the_spec_says_is_found(kernel: FakeKernel, capsys: Capture) -> None:
    place = kernel.host.root / "dev/thing"
    try:
        os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("nobody may make device nodes here (CAP_MKNOD)")
    put(kernel, OTHER, spec_with(type="c", major=1, minor=3))
    assert checked(kernel, capsys) == []
    put(kernel, OTHER, spec_with(type="c", major=1, minor=5))
    ((_, finding),) = checked(kernel, capsys)
    assert finding["code"] == "other-node"
    assert "/dev/thing is device 1:3, not 1:5" in finding["text"]


# --- what is looked at


def test_files_and_folders_that_are_given_are_checked_alone(
    kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    broken = put(kernel, "broken.yaml", "{")
    (kernel.host.root / "elsewhere").mkdir()
    (kernel.host.root / "elsewhere/good.yaml").write_text(VFIO_NODES)
    assert checked(kernel, capsys, "/elsewhere") == []
    assert checked(kernel, capsys, "/elsewhere/good.yaml") == []
    ((file, _),) = checked(kernel, capsys, "/elsewhere", "/var/run/cdi/broken.yaml")
    assert file == str(broken)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("[")
    ((file, _),) = checked(kernel, capsys, "mine.yaml")
    assert file == str(tmp_path / "mine.yaml")


def test_what_is_not_there_ends_with_1_and_one_sentence(kernel: FakeKernel, capsys: Capture) -> None:
    assert run_command(cli, ["check", "/nowhere/x.yaml"], obj=kernel.node()) == 1
    assert capsys.readouterr().err.startswith(f"error: there is no {kernel.host.root}/nowhere/x.yaml")


def test_a_name_in_two_files_given_one_by_one_is_a_duplicate_if_they_lie_in_one_folder(
    kernel: FakeKernel, capsys: Capture
) -> None:
    for name in ("a.yaml", "b.yaml"):
        put(kernel, name, VFIO_NODES)
    ((_, finding),) = checked(kernel, capsys, "/var/run/cdi/a.yaml", "/var/run/cdi/b.yaml")
    assert finding["code"] == "duplicate-name"
