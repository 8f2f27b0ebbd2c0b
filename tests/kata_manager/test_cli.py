"""The command line: what `spec` shows, what `spec --write` does, and what is refused."""

import json
from pathlib import Path

import click
import pytest
import yaml

from kata_manager.cli import cli
from kata_manager.settings import meaningless
from nodelib.cli import run_command
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu, nvswitch
from tests.fakes.topologies import build
from tests.kata_manager.builders import NVSWITCH, PGPU, TWO_GPUS, AllBound, files, folder_of, foreign_spec, put

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(kernel: FakeKernel, capsys: Capture, *args: str) -> str:
    assert run_command(cli, args, obj=kernel.node()) == 0
    return capsys.readouterr().out


# --- shown


def test_the_table_shows_each_name_its_nodes_and_why_one_is_not_listed(kernel: FakeKernel, capsys: Capture) -> None:
    kernel.add_device(gpu("0000:0a:00.0", group=200), driver="nvidia")
    lines = said(kernel, capsys, "spec").splitlines()
    assert lines[:4] == [
        "CDI NAME             ALSO            DEVICE NODES   LISTED",
        "nvidia.com/pgpu=65   0000:3b:00.0,1  /dev/vfio/65   yes",
        "nvidia.com/pgpu=93   0000:86:00.0,2  /dev/vfio/93   yes",
        "nvidia.com/pgpu=200  0000:0a:00.0,0  /dev/vfio/200  no",
    ]
    assert " ".join(lines[5:]).startswith("nvidia.com/pgpu=200: IOMMU group 200 is held up by 0000:0a:00.0 on driver")
    assert not folder_of(kernel).exists(), "showing writes nothing"


def test_a_node_without_an_iommu_is_told_why_there_is_no_name(tmp_path: Path, capsys: Capture) -> None:
    with build("h200-vm", tmp_path) as kernel:
        text = said(kernel, capsys, "spec")
        assert text.startswith("no device can be named: no IOMMU group holds a GPU\n0000:00:06.0: it is in no IOMMU")
        assert said(kernel, capsys, "spec", "-o", "json") == "[]\n"
        assert said(kernel, capsys, "spec", "-o", "yaml") == ""


def test_yaml_is_the_bytes_of_the_files_one_document_each(kernel: FakeKernel, capsys: Capture) -> None:
    kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="vfio-pci")
    text = said(kernel, capsys, "spec", "-o", "yaml")
    said(kernel, capsys, "spec", "--write")
    written = files(kernel)
    assert text.split("---\n") == [written[NVSWITCH], written[PGPU]]
    assert [document["kind"] for document in yaml.safe_load_all(text)] == ["nvidia.com/nvswitch", "nvidia.com/pgpu"]


def test_json_is_the_same_for_programs(kernel: FakeKernel, capsys: Capture) -> None:
    assert json.loads(said(kernel, capsys, "spec", "-o", "json")) == [yaml.safe_load(TWO_GPUS)]


def test_the_table_of_a_dgx_fits_80_columns(tmp_path: Path, capsys: Capture) -> None:
    with build("dgx-h100", tmp_path, drivers=AllBound(), vfio_cdevs=True) as kernel:
        for options in ([], ["--gpu-alias", "", "--nvswitch-alias", ""], ["--vfio-mode", "legacy"]):
            assert max(len(line) for line in said(kernel, capsys, "spec", *options).splitlines()) <= 80


# --- written


def test_write_says_what_it_did_and_then_that_there_is_nothing_to_do(kernel: FakeKernel, capsys: Capture) -> None:
    assert said(kernel, capsys, "spec", "--write") == f"done: write {folder_of(kernel) / PGPU} (6 names)\n"
    assert files(kernel) == {PGPU: TWO_GPUS}
    assert said(kernel, capsys, "spec", "--write") == "nothing to do\n"
    assert said(kernel, capsys, "spec", "--write", "--gpu-alias", "gpu").splitlines() == [
        f"done: write {folder_of(kernel) / 'nvidia.com-gpu.yaml'} (6 names)",
        f"done: remove {folder_of(kernel) / PGPU}: none of its devices is wanted any more",
    ]


def test_a_dry_run_prints_the_steps_and_touches_no_file(kernel: FakeKernel, capsys: Capture) -> None:
    text = said(kernel, capsys, "spec", "--write", "--dry-run")
    assert text == f"would write {folder_of(kernel) / PGPU} (6 names)\n"
    assert not folder_of(kernel).exists()
    said(kernel, capsys, "spec", "--write")
    assert said(kernel, capsys, "spec", "--write", "--dry-run") == "nothing to do\n"
    text = said(kernel, capsys, "spec", "--write", "--dry-run", "--gpu-alias", "gpu")
    assert [line.split()[:2] for line in text.splitlines()] == [["would", "write"], ["would", "remove"]]
    assert files(kernel) == {PGPU: TWO_GPUS}


def test_settings_come_from_the_environment_too(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    # facts/labels-and-settings.md: P_GPU_ALIAS, and an empty one means one resource per model
    monkeypatch.setenv("CDI_DIR", "/etc/cdi")
    monkeypatch.setenv("P_GPU_ALIAS", "h100")
    said(kernel, capsys, "spec", "--write")
    folder = kernel.host.root / "etc/cdi"
    assert [path.name for path in folder.iterdir()] == ["nvidia.com-h100.yaml"]
    assert not folder_of(kernel).exists()


def test_an_empty_alias_names_by_model(kernel: FakeKernel, capsys: Capture) -> None:
    said(kernel, capsys, "spec", "--write", "--gpu-alias", "")
    assert list(files(kernel)) == ["nvidia.com-GH100_H100_SXM5_80GB.yaml"]


def test_every_flag_has_an_environment_variable_but_the_one_that_makes_spec_write() -> None:
    without = {
        f"{command.name} {parameter.opts[0]}"
        for command in cli.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.envvar
    }
    assert without == {"spec --write"}


# --- failed


def test_a_foreign_file_in_the_way_ends_with_1_and_names_it(kernel: FakeKernel, capsys: Capture) -> None:
    path = put(kernel, PGPU, foreign_spec("nvidia.com/pgpu", {"all": "/dev/nvidia0"}))
    for options in ([], ["--dry-run"]):
        assert run_command(cli, ["spec", "--write", *options], obj=kernel.node()) == 1
        captured = capsys.readouterr()
        assert "error: " in captured.err
        assert f"{path} is somebody else's file where ours must go" in " ".join(captured.err.split())
        assert "Traceback" not in captured.err


def test_a_file_that_cannot_be_written_ends_with_1_and_the_remedy(kernel: FakeKernel, capsys: Capture) -> None:
    (folder_of(kernel) / PGPU).mkdir(parents=True)
    assert run_command(cli, ["spec", "--write"], obj=kernel.node()) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"cannot write {folder_of(kernel) / PGPU} (6 names) (Is a directory): make {folder_of(kernel)} writable" in said
    )


# --- wrong usage, and not supported


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--gpu-alias", "p gpu"], "--gpu-alias: 'p gpu' must begin with a letter"),
        (["--gpu-alias", "0gpu"], "must begin with a letter"),
        (["--gpu-alias", "a.b"], "hold only letters, digits, - and _"),
        (["--gpu-alias", "nvidia.com/pgpu"], "hold only letters, digits, - and _"),
        (["--gpu-alias", "pgpu-"], "end with a letter or digit"),
        (["--gpu-alias", "../pgpu"], "must begin with a letter"),
        (["--gpu-alias", "x" * 64], "is longer than 63 characters"),
        (["--nvswitch-alias", "pgpu"], "one name cannot mean two things"),
        (["--vfio-mode", "both"], "'both' is not one of"),
        (["--cdi-dir", "var/run/cdi"], "--cdi-dir 'var/run/cdi' must be a path of the host from its root"),
        (["--cdi-dir", ""], "must be a path of the host from its root"),
        (["-o", "xml"], "'xml' is not one of"),
    ],
)
def test_wrong_usage_ends_with_2_one_sentence_and_nothing_written(
    kernel: FakeKernel, options: list[str], reason: str, capsys: Capture
) -> None:
    assert run_command(cli, ["spec", "--write", *options], obj=kernel.node()) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert "Traceback" not in said
    assert not folder_of(kernel).exists()


def test_a_host_root_without_sys_ends_with_3(tmp_path: Path, capsys: Capture) -> None:
    assert run_command(cli, ["spec", "--host-root", str(tmp_path)]) == 3
    assert "is its /sys mounted under --host-root?" in capsys.readouterr().err


def test_a_host_root_that_is_no_folder_ends_with_2(capsys: Capture) -> None:
    assert run_command(cli, ["spec", "--host-root", "/nowhere/at/all"]) == 2
    assert "host root /nowhere/at/all is not a folder" in capsys.readouterr().err


# --- variables of existing manifests


def test_variables_that_have_no_effect_are_told_and_those_that_have_are_used(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    # facts/labels-and-settings.md
    assert meaningless({}) == ()
    told = meaningless({"CONFIG_FILE": "/config/config.yaml", "POD_NAMESPACE": "gpu-operator", "NODE_NAME": "n"})
    assert [text.split()[0] for text in told] == ["CONFIG_FILE", "POD_NAMESPACE"]
    assert all("is set and has no effect: " in text for text in told)
    monkeypatch.setenv("LOAD_KERNEL_MODULES", "false")
    monkeypatch.setenv("CDI_ENABLED", "true")
    (kernel.host.root / "sys/module/vhost_net/initstate").unlink()
    (kernel.host.root / "sys/module/vhost_net/refcnt").unlink()
    (kernel.host.root / "sys/module/vhost_net").rmdir()
    assert said(kernel, capsys, "plan").split()[2:3] == ["write"]
    monkeypatch.setenv("LOAD_KERNEL_MODULES", "true")
    assert said(kernel, capsys, "plan").split()[2:4] == ["load", "vhost_net"]
    monkeypatch.setenv("CDI_ENABLED", "false")
    assert [line.split()[0] for line in said(kernel, capsys, "plan").splitlines()] == ["STEP", "load"]
