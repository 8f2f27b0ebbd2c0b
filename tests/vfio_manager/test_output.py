"""What `status` and `plan` show: tables that fit a terminal, and fields that programs can rely on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nodelib.cli import run_command
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_NIC, MELLANOX, gpu, other
from tests.fakes.topologies import build
from tests.vfio_manager.builders import AUDIO, GPU, OTHER_GPU, add_card, add_other_gpu, bind, spoil
from vfio_manager.cli import cli

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def said(kernel: FakeKernel, capsys: Capture, *args: str) -> str:
    assert run_command(cli, args, obj=kernel.node()) == 0
    return capsys.readouterr().out


def rows(kernel: FakeKernel, capsys: Capture, verb: str = "status") -> list[dict[str, object]]:
    found = json.loads(said(kernel, capsys, verb, "-o", "json"))
    assert isinstance(found, list)
    assert yaml.safe_load(said(kernel, capsys, verb, "-o", "yaml")) == found
    return found


def states(kernel: FakeKernel, capsys: Capture) -> dict[object, object]:
    return {row["address"]: row["state"] for row in rows(kernel, capsys)}


@pytest.fixture
def node_at(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    with build(str(request.param), tmp_path) as kernel:
        yield kernel


@pytest.mark.parametrize("node_at", ["dgx-h100", "workstation", "h200-vm", "gh200", "shared-group"], indirect=True)
def test_tables_fit_80_columns_and_cut_neither_address_nor_state(node_at: FakeKernel, capsys: Capture) -> None:
    for text in (said(node_at, capsys, "status"), said(node_at, capsys, "plan"), said(node_at, capsys, "status")):
        assert max(len(line) for line in text.splitlines()) <= 80
    bind(node_at)
    table = said(node_at, capsys, "status")
    assert max(len(line) for line in table.splitlines()) <= 80
    for row in rows(node_at, capsys):
        (line,) = (line for line in table.splitlines() if line.startswith(f"{row['address']}  "))
        assert f"  {row['iommu_group'] or '-'}  " in line
        assert line.endswith(f"  {row['state']}")


def test_the_table_shows_each_device_and_what_is_to_do(kernel: FakeKernel, capsys: Capture) -> None:
    assert said(kernel, capsys, "status").splitlines() == [
        "ADDRESS       KIND       MODEL           DRIVER         GROUP  NUMA  USED  STATE",
        "0000:3b:00.0  GPU        H100 SXM5 80GB  nvidia         65     -     no    to do",
        "0000:3b:00.1  companion  AD107 High D..  snd_hda_intel  65     -     no    to do",
        "0000:86:00.0  GPU        H100 SXM5 80GB  nvidia         93     -     no    to do",
        "",
        "0000:3b:00.0 and 2 more: `vfio-manager bind` would put it on its VFIO driver",
    ]


def test_a_captured_machine_with_an_h200_is_told_the_truth(tmp_path: Path, capsys: Capture) -> None:
    # tests/data/h200-vm-sysfs.json; facts/field-problems.md, row 23
    with build("h200-vm", tmp_path) as kernel:
        lines = said(kernel, capsys, "status").splitlines()
    assert lines[1].split() == ["0000:00:06.0", "GPU", "H200", "SXM", "141GB", "nvidia", "-", "-", "no", "blocked"]
    assert " ".join(" ".join(lines[3:]).split()).startswith("0000:00:06.0: it is in no IOMMU group")


def test_programs_get_every_field(bare_kernel: FakeKernel, capsys: Capture) -> None:
    add_card(bare_kernel, on="vfio-pci", audio_on="vfio-pci")
    first, _ = rows(bare_kernel, capsys)
    assert first == {
        "address": str(GPU),
        "kind": "GPU",
        "model": "H100 SXM5 80GB",
        "class": "0x030200",
        "driver": "vfio-pci",
        "wanted_driver": "vfio-pci",
        "iommu_group": 65,
        "group_members": [str(GPU), str(AUDIO)],
        "group_viable": True,
        "numa_node": None,
        "in_use": False,
        "power_state": "D3hot",
        "state": "to mend",
        "reason": None,
        "held_by": [],
    }


def test_the_plan_for_programs_is_one_row_a_step(kernel: FakeKernel, capsys: Capture) -> None:
    assert rows(kernel, capsys, "plan")[:2] == [
        {"address": str(GPU), "action": f"forbid D3cold for {GPU}"},
        {"address": str(GPU), "action": f"set driver_override of {GPU} to vfio-pci"},
    ]
    assert bind(kernel) == []
    assert rows(kernel, capsys, "plan") == []
    assert said(kernel, capsys, "plan") == "nothing to do\n"


def test_each_state_is_shown_as_what_it_is(bare_kernel: FakeKernel, capsys: Capture) -> None:
    add_card(bare_kernel, on="vfio-pci", audio_on=None)
    add_other_gpu(bare_kernel)
    no_group = bare_kernel.add_device(gpu("0000:0a:00.0"), driver="nvidia")
    assert states(bare_kernel, capsys) == {
        str(no_group): "blocked",
        str(GPU): "to mend",
        str(AUDIO): "to do",
        str(OTHER_GPU): "to do",
    }
    assert bind(bare_kernel) != []
    assert states(bare_kernel, capsys) == {
        str(no_group): "blocked",
        str(GPU): "bound",
        str(AUDIO): "bound",
        str(OTHER_GPU): "bound",
    }


def test_a_group_that_is_not_viable_shows_its_members_and_who_is_in_the_way(
    kernel: FakeKernel, capsys: Capture
) -> None:
    # facts/field-problems.md, rows 6 and 7
    nic = kernel.add_device(other("0000:3c:00.0", MELLANOX, 0x1021, CLASS_NIC, group=65), driver="mlx5_core")
    bind(kernel)
    of_group = [row for row in rows(kernel, capsys) if row["iommu_group"] == 65]
    assert [row["group_members"] for row in of_group] == [[str(GPU), str(AUDIO), str(nic)]] * 3
    assert [row["group_viable"] for row in of_group] == [False] * 3
    assert [row["state"] for row in of_group] == ["bound", "bound", "blocked"]
    assert str(of_group[2]["reason"]).startswith("it is on driver mlx5_core and shares IOMMU group 65 with a GPU")


def test_a_companion_is_no_second_gpu(kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 8
    assert [row["kind"] for row in rows(kernel, capsys)] == ["GPU", "companion", "GPU"]


def test_a_device_in_a_vm_is_shown_as_used_with_all_of_its_group(bare_kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 14: looking needs no idle device
    add_card(bare_kernel, on="vfio-pci", audio_on="vfio-pci")
    add_other_gpu(bare_kernel, on="vfio-pci")
    with bare_kernel.start_vm(GPU):
        assert [row["in_use"] for row in rows(bare_kernel, capsys)] == [True, True, False]
    assert [row["in_use"] for row in rows(bare_kernel, capsys)] == [False] * 3


def test_an_unknown_model_is_shown_by_its_id(bare_kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 35
    bare_kernel.add_device(gpu("0000:0a:00.0", 0xFFF0, group=3))
    assert [row["model"] for row in rows(bare_kernel, capsys)] == ["unknown fff0"]


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 21
    folder = kernel.host.root / "sys/bus/pci/devices" / str(OTHER_GPU)
    spoil(folder / "device", "\n")
    text = said(kernel, capsys, "status")
    assert f"{OTHER_GPU}: device makes no sense" in " ".join(text.split())
    assert [row["address"] for row in rows(kernel, capsys)] == [str(GPU), str(AUDIO)]


def test_a_node_without_nvidia_devices_is_an_answer(bare_kernel: FakeKernel, capsys: Capture) -> None:
    assert said(bare_kernel, capsys, "status") == "no NVIDIA device on this node\n"
    assert rows(bare_kernel, capsys) == []
