"""`status` and `plan`: who is there for the devices now, and what a daemon that starts now would do."""

import json
import socket
from pathlib import Path

import pytest

from device_plugin.cli import cli
from nodelib.cli import run_command
from tests.device_plugin.small_node import PGPU, RunningPlugin, SmallNode
from tests.fakes.kubelet import Kubelet

FIRST, SECOND = "0000:3b:00.0", "0000:5e:00.0"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pair(small: SmallNode) -> SmallNode:
    small.add(FIRST, 65)
    small.add(SECOND, 66)
    return small


def said(small: SmallNode, capsys: Capture, *arguments: str) -> str:
    """What people read, in one line."""
    assert run_command(cli, list(arguments), obj=small.node) == 0
    return " ".join(capsys.readouterr().out.split())


def rows(small: SmallNode, capsys: Capture, *arguments: str) -> list[dict[str, object]]:
    assert run_command(cli, [*arguments, "-o", "json"], obj=small.node) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_status_says_who_is_there(pair: SmallNode, kubelet: Kubelet, capsys: Capture) -> None:
    pair.unbind(SECOND)
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        screen = said(pair, capsys, "status")
        assert "nvidia.com/pgpu: 2 devices, 1 healthy; a plugin serves it" in screen
        assert f"the kubelet listens on {kubelet.kubelet_socket}" in screen
        assert "66: 0000:5e:00.0 has no driver" in screen
        assert [row["served"] for row in rows(pair, capsys, "status")] == [True, True]
    assert len(kubelet.registrations) == 1, "looking is no event for the kubelet"


def test_status_says_who_is_not(pair: SmallNode, capsys: Capture) -> None:
    screen = said(pair, capsys, "status")
    assert "no plugin serves it: start `device-plugin run`" in screen
    assert "the kubelet does not listen on" in screen
    assert [row["served"] for row in rows(pair, capsys, "status")] == [False, False]


def test_status_has_all_that_list_has(pair: SmallNode, capsys: Capture) -> None:
    pair.add("0000:86:00.0", None)
    listed = rows(pair, capsys, "list")
    served = [False, False, None]
    assert rows(pair, capsys, "status") == [{**row, "served": s} for row, s in zip(listed, served, strict=True)]


def test_plan_is_what_a_daemon_would_do(pair: SmallNode, kubelet: Kubelet, capsys: Capture) -> None:
    before = sorted(pair.root.rglob("*"))
    serving = ["serve nvidia.com/pgpu: 2 devices, 2 healthy", "register nvidia.com/pgpu with the kubelet"]
    assert [row["action"] for row in rows(pair, capsys, "plan")] == [
        f"write {pair.root}/var/run/cdi/nvidia.com-pgpu.yaml (6 names)",
        *serving,
    ]
    assert [row["action"] for row in rows(pair, capsys, "plan", "--cdi", "off")] == serving
    assert sorted(pair.root.rglob("*")) == before, "plan changes nothing"


def test_plan_says_what_would_be_waited_for(pair: SmallNode, capsys: Capture) -> None:
    pair.add("0000:83:00.0", 70, device="0x22a3", pci_class="0x068000")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(pair.plugins / "nvidia.com_pgpu.sock"))
        other.listen()
        screen = said(pair, capsys, "plan", "--cdi", "off")
    assert "another device plugin answers on" in screen
    assert f"kubelet: there is no socket {pair.plugins}/kubelet.sock" in screen
    assert "serve nvidia.com/nvswitch: 1 device, 1 healthy" in screen
    assert "serve nvidia.com/pgpu" not in screen


def test_plan_says_whose_file_is_in_the_way(pair: SmallNode, kubelet: Kubelet, capsys: Capture) -> None:
    folder = Path(pair.root, "var/run/cdi")
    folder.mkdir(parents=True)
    (folder / "nvidia.com-pgpu.yaml").write_text("kind: [")
    assert "is somebody else's file where ours must go" in said(pair, capsys, "plan")


def test_plan_says_that_the_cdi_folder_is_none(pair: SmallNode, kubelet: Kubelet, capsys: Capture) -> None:
    (pair.root / "var/run").mkdir()
    (pair.root / "var/run/cdi").touch()
    assert "CDI: cannot list the CDI folder" in said(pair, capsys, "plan")


def test_an_empty_node_has_nothing_to_do(small: SmallNode, kubelet: Kubelet, capsys: Capture) -> None:
    assert said(small, capsys, "plan") == "nothing to do: there is no device to advertise"
    assert "no NVIDIA GPU or NVSwitch on this node" in said(small, capsys, "status")
