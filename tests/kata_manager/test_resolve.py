"""`resolve`: what a runtime would inject for a name, and why it would not."""

import json
from typing import Any

import pytest

from kata_manager.cli import cli
from nodelib.cli import run_command
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import GPU, PGPU, folder_of, foreign_spec, put, write

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def resolved(kernel: FakeKernel, capsys: Capture, *names: str, code: int = 0) -> list[dict[str, Any]]:
    assert run_command(cli, ["resolve", "-o", "json", *names], obj=kernel.node()) == code
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def told(kernel: FakeKernel, capsys: Capture, *names: str) -> str:
    run_command(cli, ["resolve", *names], obj=kernel.node())
    return " ".join(capsys.readouterr().out.split())


def put_static(kernel: FakeKernel, content: str) -> str:
    path = kernel.host.root / "etc/cdi/static.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


def test_field_11_a_name_shows_its_nodes_its_edits_and_its_file(kernel: FakeKernel, capsys: Capture) -> None:
    write(kernel)
    row, by_address = resolved(kernel, capsys, "nvidia.com/pgpu=65", f"nvidia.com/pgpu={GPU}")
    assert row == {
        "name": "nvidia.com/pgpu=65",
        "runtime": "all",
        "nodes": ["/dev/vfio/65"],
        "file": str(folder_of(kernel) / PGPU),
        "edits": {"deviceNodes": [{"path": "/dev/vfio/65"}]},
    }
    assert by_address["nodes"] == ["/dev/vfio/65"]
    assert told(kernel, capsys, "nvidia.com/pgpu=65").startswith("CDI NAME RUNTIME DEVICE NODES FILE")


def test_the_edits_for_all_devices_come_first(kernel: FakeKernel, capsys: Capture) -> None:
    put(
        kernel,
        "vendor.yaml",
        "cdiVersion: 0.5.0\nkind: vendor.com/gpu\ncontainerEdits: {env: [ALL=1], deviceNodes: [{path: /dev/ctl}]}\n"
        "devices:\n- {name: a, containerEdits: {env: [ONE=1], deviceNodes: [{path: /dev/a, hostPath: /dev/h}]}}\n",
    )
    (row,) = resolved(kernel, capsys, "vendor.com/gpu=a")
    assert row["edits"]["env"] == ["ALL=1", "ONE=1"]
    assert row["nodes"] == ["/dev/ctl", "/dev/h"]


def test_where_go_and_rust_runtimes_differ_both_answers_are_shown(kernel: FakeKernel, capsys: Capture) -> None:
    # facts/kubelet-cdi-kata-contract.md: the later folder wins, in Kata's Rust runtime the earlier one
    static = put_static(kernel, foreign_spec("vendor.com/gpu", {"a": "/dev/static"}))
    put(kernel, "vendor.yaml", foreign_spec("vendor.com/gpu", {"a": "/dev/dynamic", "b": "/dev/b"}))
    rows = resolved(kernel, capsys, "vendor.com/gpu=a", "vendor.com/gpu=b")
    assert [(row["name"][-1], row["runtime"], row["nodes"]) for row in rows] == [
        ("a", "go", ["/dev/dynamic"]),
        ("a", "rust", ["/dev/static"]),
        ("b", "all", ["/dev/b"]),
    ]
    assert rows[1]["file"] == static
    assert "Go runtimes take it from the later folder" in told(kernel, capsys, "vendor.com/gpu=a")


def test_a_name_that_does_not_resolve_ends_with_1_and_the_reason(kernel: FakeKernel, capsys: Capture) -> None:
    write(kernel)
    (row,) = resolved(kernel, capsys, "nvidia.com/pgpu=66", code=1)
    assert (row["nodes"], row["file"], row["edits"]) == ([], None, {})
    assert "does not resolve: of that kind there are 0, 0000:3b:00.0, 0000:86:00.0, 1, 65, 93" in told(
        kernel, capsys, "nvidia.com/pgpu=66"
    )
    assert "no spec has that kind" in told(kernel, capsys, "nvidia.com/gpu=0")
    broken = put(kernel, "broken.yaml", "{")
    assert f"{broken} is broken and may have it" in told(kernel, capsys, "nvidia.com/gpu=0")


def test_field_7_a_name_that_two_files_claim_names_both(kernel: FakeKernel, capsys: Capture) -> None:
    write(kernel)
    rival = put(kernel, "rival.yaml", foreign_spec("nvidia.com/pgpu", {"65": "/dev/vfio/65"}))
    resolved(kernel, capsys, "nvidia.com/pgpu=65", code=1)
    assert f"{folder_of(kernel) / PGPU} and {rival} all claim it; remove all but one" in told(
        kernel, capsys, "nvidia.com/pgpu=65"
    )


@pytest.mark.parametrize(
    "name", ["65", "nvidia.com=65", "nvidia.com/pgpu", "nvidia.com/pgpu=", "/pgpu=1", "a/b=c d", ""]
)
def test_what_is_no_cdi_name_is_wrong_usage(kernel: FakeKernel, name: str, capsys: Capture) -> None:
    assert run_command(cli, ["resolve", name], obj=kernel.node()) == 2
    assert "is no CDI name: write vendor/class=name" in capsys.readouterr().err
