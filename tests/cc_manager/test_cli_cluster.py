"""`plan` and `restore`, and what `run` refuses: the verbs that talk to the API server, as people call them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cli import cli
from cc_manager.cluster import labels
from cc_manager.cluster.operands import PAUSED, key_of
from cc_manager.lock import mode_lock
from cc_manager.settings import LOCK_FILE
from nodelib.cli import run_command
from tests.cc_manager.simulated import NODE_NAME, CcNode
from tests.cc_manager.workloads import add_operands, operand_labels

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Off, wanted on, with two operands."""
    with CcNode(tmp_path, gpus=1, switches=1, labels={labels.MODE: "on"}, real_time=True) as node:
        add_operands(node, "vfio-manager", "kata-sandbox-device-plugin")
        yield node


def run(node: CcNode, folder: Path, *args: str) -> int:
    return run_command(cli, [*args, "--node-name", NODE_NAME, "--kubeconfig", str(node.kubeconfig(folder))], obj=node)


# --- plan


def test_plan_shows_the_whole_change_in_its_order_and_changes_nothing(
    node: CcNode, tmp_path: Path, capsys: Captured
) -> None:
    before = (len(node.api.history), node.accesses[0] >= 0, dict(node.devices[node.addresses[0]].knobs))
    assert run(node, tmp_path, "plan", "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["phase"] for row in rows] == [
        "ready", "pause", "pause", "pause", "stage", "reset", "verify", "restore", "restore", "publish",
    ]  # fmt: skip
    assert rows[1]["action"] == "pause vfio-manager"
    assert rows[3]["action"] == "wait until nobody has a device"
    assert rows[-2]["action"] == "let kata-sandbox-device-plugin run again, as true"
    assert (len(node.api.history), True, dict(node.devices[node.addresses[0]].knobs)) == before


def test_plan_without_pausing_shows_no_operand(node: CcNode, tmp_path: Path, capsys: Captured) -> None:
    assert run(node, tmp_path, "plan", "--no-pause-operands") == 0
    assert "vfio-manager" not in capsys.readouterr().out


def test_the_table_of_plan_fits_a_terminal(
    node: CcNode, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run(node, tmp_path, "plan")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines()[-1] == "wanted mode: on"


def test_plan_for_a_node_that_is_in_its_mode_is_empty_but_for_operands_that_stayed_paused(
    node: CcNode, tmp_path: Path, capsys: Captured
) -> None:
    node.want("off")
    assert run(node, tmp_path, "plan") == 0
    assert capsys.readouterr().out.splitlines()[0] == "nothing to do"
    node.api.set_label(key_of("vfio-manager"), PAUSED)
    run(node, tmp_path, "plan")
    assert "let vfio-manager run again, as true" in capsys.readouterr().out


def test_plan_names_what_is_in_the_way(node: CcNode, tmp_path: Path, capsys: Captured) -> None:
    with node.kernel.start_vm(node.addresses[1]):
        run(node, tmp_path, "plan")
    out = capsys.readouterr().out
    assert "no step is planned, because:" in out
    assert "in use by a virtual machine" in out


def test_plan_says_that_the_label_is_no_mode(node: CcNode, tmp_path: Path, capsys: Captured) -> None:
    node.want("yes")
    assert run(node, tmp_path, "plan") == 2
    assert "label nvidia.com/cc.mode: 'yes' is not a confidential-computing mode" in capsys.readouterr().err


# --- restore


def test_restore_lets_operands_run_and_takes_our_labels_off(node: CcNode, tmp_path: Path, capsys: Captured) -> None:
    node.api.set_label(key_of("vfio-manager"), PAUSED)
    node.api.set_label(key_of("vgpu-manager"), f"custom_{PAUSED}")
    node.api.patch_node(
        {
            "metadata": {
                "labels": {labels.STATE: "failed", labels.READY: "", "zone": "a"},
                "annotations": {labels.MESSAGE: "m", labels.DEVICES: "{}", "note": "x"},
            }
        }
    )
    assert run(node, tmp_path, "restore", "--dry-run") == 0
    assert "would set label nvidia.com/gpu.deploy.vfio-manager from paused-" in capsys.readouterr().out
    assert node.api.labels[labels.STATE] == "failed"
    assert run(node, tmp_path, "restore") == 0
    assert operand_labels(node) == {
        "vfio-manager": "true",
        "kata-sandbox-device-plugin": "true",
        "vgpu-manager": "custom",
    }
    assert {labels.STATE, labels.READY}.isdisjoint(node.api.labels)
    assert (node.api.labels[labels.MODE], node.api.labels["zone"]) == ("on", "a")
    assert node.api.annotations == {"note": "x"}
    assert node.accesses == [0, 0]
    assert run(node, tmp_path, "restore") == 0, "a second time does no harm"


def test_restore_is_refused_while_a_cc_manager_is_at_work(node: CcNode, tmp_path: Path, capsys: Captured) -> None:
    node.api.set_label(key_of("vfio-manager"), PAUSED)
    with mode_lock(node.node.host.resolve(LOCK_FILE)):
        assert run(node, tmp_path, "restore") == 1
    assert "another cc-manager on this node holds" in capsys.readouterr().err
    assert operand_labels(node)["vfio-manager"] == PAUSED


# --- bad input


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "--node-name", "../nodes"], "--node-name '../nodes' is no node's name"),
        (
            ["run", "--node-name", "n", "--operator-namespace", "a/b"],
            "--operator-namespace 'a/b' is no namespace's name",
        ),
        (["restore", "--node-name", ""], "--node-name '' is no node's name"),
        (["plan", "--node-name", "n", "--kubeconfig", "/nowhere"], "kubeconfig /nowhere cannot be used"),
        (["run", "--node-name", "n", "--drift", "maybe"], "Invalid value for '--drift'"),
        (["run", "--node-name", "n", "--evict-timeout", "0"], "Invalid value for '--evict-timeout'"),
        (["set", "on", "--when-busy", "evict"], "Invalid value for '--when-busy'"),
        (["set", "on", "--reset-timeout", "nan"], "nan is not a number of seconds"),
        (["set", "on", "--device-timeout", "inf"], "inf is not a number of seconds"),
    ],
)
def test_bad_input_is_one_sentence(node: CcNode, capsys: Captured, args: list[str], says: str) -> None:
    assert run_command(cli, args, obj=node) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("text", "code"), [("maybe", 2), ("false", 2), ("true", 2)])
def test_the_variable_of_existing_manifests_is_checked(
    node: CcNode, capsys: Captured, monkeypatch: pytest.MonkeyPatch, text: str, code: int
) -> None:
    """Only `maybe` is refused for it; the others go on to what is missing next."""
    monkeypatch.setenv("EVICT_OPERATOR_COMPONENTS", text)
    assert run_command(cli, ["run", "--node-name", "n", "--kubeconfig", "/nowhere"], obj=node) == code
    err = capsys.readouterr().err
    assert ("is not a valid boolean" in err) is (text == "maybe")
