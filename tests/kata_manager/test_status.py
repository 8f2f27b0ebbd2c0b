"""`status` and `plan`: what is there, whether it resolves, and what `run` would do."""

import json

import pytest

from kata_manager.cli import cli
from nodelib.cli import run_command
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu
from tests.kata_manager.builders import PGPU, TWO_GPUS, files, folder_of, foreign_spec, put, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(kernel: FakeKernel, capsys: Capture, *args: str) -> str:
    assert run_command(cli, args, obj=kernel.node()) == 0
    return capsys.readouterr().out


def test_status_tells_what_resolves_and_what_run_would_do(kernel: FakeKernel, capsys: Capture) -> None:
    kernel.add_device(gpu("0000:0a:00.0", group=200), driver="nvidia")
    lines = said(kernel, capsys, "status").splitlines()
    assert lines[:4] == [
        "CDI NAME             ALSO            DEVICE NODES   STATE",
        "nvidia.com/pgpu=65   0000:3b:00.0,1  /dev/vfio/65   unresolved",
        "nvidia.com/pgpu=93   0000:86:00.0,2  /dev/vfio/93   unresolved",
        "nvidia.com/pgpu=200  0000:0a:00.0,0  /dev/vfio/200  left out",
    ]
    flowing = " ".join(" ".join(lines).split())
    assert f"`run` would write {folder_of(kernel) / PGPU} (6 names)" in flowing
    assert "nvidia.com/pgpu=200: IOMMU group 200 is held up by 0000:0a:00.0 on driver nvidia" in flowing
    assert not folder_of(kernel).exists(), "showing writes nothing"
    write(kernel)
    assert [line.split()[-1] for line in said(kernel, capsys, "status").splitlines()[1:3]] == ["resolves", "resolves"]


def test_status_names_what_is_in_the_way(kernel: FakeKernel, capsys: Capture) -> None:
    write(kernel)
    put(kernel, PGPU, TWO_GPUS.replace("/dev/vfio/93", "/dev/vfio/65"))
    rival = put(kernel, "rival.yaml", foreign_spec("nvidia.com/pgpu", {"65": "/dev/vfio/65"}))
    rows = json.loads(said(kernel, capsys, "status", "-o", "json"))
    assert {row["name"]: (row["state"], row["file"]) for row in rows} == {
        "nvidia.com/pgpu=65": ("unresolved", None),
        "nvidia.com/pgpu=93": ("wrong", str(folder_of(kernel) / PGPU)),
    }
    assert f"{rival} claims nvidia.com/pgpu=65 too" in " ".join(said(kernel, capsys, "status").split())


def test_plan_shows_the_steps_and_changes_nothing(kernel: FakeKernel, capsys: Capture) -> None:
    stale = put(kernel, "nvidia.com-gone.yaml", "# managed by cgpu-agents\n")
    lines = said(kernel, capsys, "plan").splitlines()
    assert [line.split()[0] for line in lines] == ["STEP", "write", "remove"]
    rows = json.loads(said(kernel, capsys, "plan", "-o", "json"))
    assert [row["what"] for row in rows] == [str(folder_of(kernel) / PGPU), str(stale)]
    assert list(files(kernel)) == [stale.name]
    write(kernel)
    assert said(kernel, capsys, "plan") == "nothing to do\n"


def test_a_format_and_a_version_that_are_asked_for_are_written(kernel: FakeKernel, capsys: Capture) -> None:
    said(kernel, capsys, "spec", "--write", "--spec-format", "json", "--cdi-version", "0.6.0")
    (name,) = files(kernel)
    document = json.loads(files(kernel)[name])
    assert (name, document["cdiVersion"], len(document["devices"])) == ("nvidia.com-pgpu.json", "0.6.0", 6)
    assert said(kernel, capsys, "spec", "--write", "--spec-format", "json", "--cdi-version", "0.6.0") == (
        "nothing to do\n"
    )
    said(kernel, capsys, "spec", "--write")
    assert files(kernel) == {PGPU: TWO_GPUS}, "and back to what is written unless asked for more"


@pytest.mark.parametrize("options", [["--cdi-version", "0.4.0"], ["--cdi-version", "1"], ["--spec-format", "toml"]])
def test_a_version_too_old_for_our_names_or_an_unknown_format_is_wrong_usage(
    kernel: FakeKernel, options: list[str], capsys: Capture
) -> None:
    assert run_command(cli, ["plan", *options], obj=kernel.node()) == 2
    assert "is not one of" in capsys.readouterr().err
