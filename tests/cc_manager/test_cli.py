"""The command line: what is shown, what is done, and what is refused with which exit code."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cli import cli
from cc_manager.lock import mode_lock
from cc_manager.settings import LOCK_FILE
from nodelib.cli import run_command
from tests.cc_manager.simulated import CcNode
from tests.fakes.parts import L40S, gpu, other
from tests.fakes.polling import until

A100 = 0x20B0
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Two GPUs and a switch."""
    with CcNode(tmp_path, gpus=2, switches=1, real_time=True) as node:
        yield node


def run(node: CcNode, *args: str) -> int:
    return run_command(cli, args, obj=node)


def rows(node: CcNode, captured: Captured, *args: str) -> list[dict[str, object]]:
    captured.readouterr()
    run(node, *args, "-o", "json")
    found = json.loads(captured.readouterr().out)
    assert isinstance(found, list)
    return found


# --- status


def test_status_shows_every_device_and_its_mode(node: CcNode, capsys: Captured) -> None:
    node.put_into("on")
    until(lambda: node.setter().look()[-1].active is not None)
    assert run(node, "status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ADDRESS       KIND      MODEL           DRIVER    USED  MODE  STAGED  SOURCE",
        "0000:07:00.0  NVSwitch  H100 NVSwitch   vfio-pci  no    off   -       BAR0",
        "0000:1b:00.0  GPU       H100 SXM5 80GB  vfio-pci  no    on    -       BAR0",
        "0000:1c:00.0  GPU       H100 SXM5 80GB  vfio-pci  no    on    -       BAR0",
    ]


def test_status_writes_nothing_anywhere(node: CcNode, capsys: Captured) -> None:
    written: list[int] = []
    node.on_access.append(lambda address, offset, value: written.append(offset) if value is not None else None)
    assert run(node, "status") == 0
    assert (written, node.kernel.writes) == ([], [])


def test_status_leaves_sleeping_devices_asleep_and_says_so_once(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=3, awake=False) as node:
        assert run(node, "status") == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "0000:1b:00.0 and 2 more: it sleeps (D3hot) and is not woken only to be looked at" in said
        assert (node.accesses, node.kernel.writes) == ([0, 0, 0], [])


def test_status_does_not_touch_a_device_in_use(node: CcNode, capsys: Captured) -> None:
    with node.kernel.start_vm(node.addresses[1]):
        accesses = node.accesses[1]
        assert run(node, "status") == 0
        assert node.accesses[1] == accesses
    assert "0000:1b:00.0: in use and not touched; never verified since the node booted" in capsys.readouterr().out


def test_field_17_status_has_a_verdict_and_a_reason_for_every_gpu(tmp_path: Path, capsys: Captured) -> None:
    hardware = (gpu("0000:1b:00.0", L40S, group=1), gpu("0000:1c:00.0", A100, group=2), gpu("0000:1d:00.0", group=3))
    with CcNode(tmp_path, hardware=hardware, driver=None, real_time=True) as node:
        found = rows(node, capsys, "status")
    assert [(row["chip"], row["active_mode"]) for row in found] == [(None, None), (None, None), ("GH100", "off")]
    assert "the chip of device id 0x26b9 is not known" in str(found[0]["reason"])
    assert "the chip of device id 0x20b0 is not known" in str(found[1]["reason"])
    assert found[2]["reason"] is None


def test_status_of_a_device_on_the_nvidia_driver_says_what_to_do(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=1, driver="nvidia") as node:
        assert run(node, "status") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0000:1b:00.0: driver nvidia holds it; bind it first: vfio-manager bind --device 0000:1b:00.0" in said


def test_status_of_a_node_without_gpus(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, hardware=(other("0000:00:14.0", 0x8086, 0x7AE0, 0x0C0330),)) as node:
        assert run(node, "status") == 0
    assert capsys.readouterr().out == "no NVIDIA GPU on this node\n"


@pytest.mark.parametrize("output", ["json", "yaml", "table"])
def test_status_comes_in_every_form(node: CcNode, capsys: Captured, output: str) -> None:
    assert run(node, "status", "-o", output) == 0
    assert "0000:1c:00.0" in capsys.readouterr().out


# --- set


def test_set_brings_all_devices_to_the_mode_and_back(node: CcNode, capsys: Captured) -> None:
    for mode in ("on", "off"):
        assert run(node, "set", mode) == 0
        node.assert_all_in(mode)
        shown = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
        assert [line[-3:] for line in shown] == [["off", "off", "BAR0"], [mode, mode, "BAR0"], [mode, mode, "BAR0"]]


def test_set_wakes_sleeping_devices(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=1, awake=False, real_time=True) as node:
        assert run(node, "set", "on") == 0
        node.assert_all_in("on")


def test_set_to_the_mode_that_is_there_changes_nothing(node: CcNode) -> None:
    assert run(node, "set", "off") == 0
    assert node.kernel.writes == []
    assert [device.knob_writes for device in node.devices.values()] == [[], [], []]


def test_set_that_fails_shows_what_is_there_and_says_why(node: CcNode, capsys: Captured) -> None:
    stubborn = node.addresses[2]
    node.devices[stubborn].faults.keeps_old_mode = True
    assert run(node, "set", "on") == 1
    captured = capsys.readouterr()
    assert [line.split()[-3] for line in captured.out.splitlines()[1:4]] == ["off", "on", "off"]
    assert captured.err.endswith(
        f"error: the devices are not all in mode on:\n{stubborn}: could not set mode on: the mode register reads off\n"
    )


def test_a_dry_run_shows_the_phases_and_touches_nothing(node: CcNode, capsys: Captured) -> None:
    knobs = [dict(device.knobs) for device in node.devices.values()]
    assert run(node, "set", "on", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "PHASE  ACTION",
        "1      stage mode on on 0000:1b:00.0",
        "1      stage mode on on 0000:1c:00.0",
        "2      reset 0000:1b:00.0",
        "2      reset 0000:1c:00.0",
        "3      verify that 0000:1b:00.0 is in mode on",
        "3      verify that 0000:1c:00.0 is in mode on",
    ]
    assert node.kernel.writes == []
    assert [device.requests for device in node.devices.values()] == [[], [], []]
    assert [device.knobs for device in node.devices.values()] == knobs
    assert not (node.node.host.root / LOCK_FILE.lstrip("/")).exists()


def test_a_dry_run_where_all_is_done_says_so(node: CcNode, capsys: Captured) -> None:
    assert run(node, "set", "off", "--dry-run") == 0
    assert capsys.readouterr().out == "nothing to do\n"


def test_a_dry_run_that_cannot_plan_says_why_and_not_that_there_is_nothing_to_do(
    node: CcNode, capsys: Captured
) -> None:
    with node.kernel.start_vm(node.addresses[1]):
        assert run(node, "set", "on", "--dry-run") == 0
    assert capsys.readouterr().out == "no step is planned, because:\n0000:1b:00.0: in use by a virtual machine\n"


def test_a_dry_run_is_possible_while_the_daemon_holds_the_lock(node: CcNode, capsys: Captured) -> None:
    with mode_lock(node.node.host.resolve(LOCK_FILE)):
        assert run(node, "set", "on", "--dry-run") == 0


def test_set_is_refused_while_another_process_holds_the_lock(node: CcNode, capsys: Captured) -> None:
    path = node.node.host.resolve(LOCK_FILE)
    with mode_lock(path):
        assert run(node, "set", "on") == 1
    assert f"another cc-manager on this node holds {path}: set the label nvidia.com/cc.mode" in capsys.readouterr().err
    node.assert_all_in("off")
    assert node.accesses == [0, 0, 0]


def test_set_fails_at_once_on_a_device_in_use_if_told_to(node: CcNode, capsys: Captured) -> None:
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        assert run(node, "set", "on", "--when-busy", "fail") == 1
    assert f"in use by a virtual machine: {busy}" in capsys.readouterr().err
    node.assert_all_in("off")


def test_set_waits_for_a_device_in_use_and_then_changes_it(node: CcNode, capsys: Captured) -> None:
    machine = node.kernel.start_vm(node.addresses[1])
    codes: list[int] = []
    setting = threading.Thread(target=lambda: codes.append(run(node, "set", "on")), name="set")
    setting.start()
    until(lambda: "waiting: in use by a virtual machine" in capsys.readouterr().err)
    node.assert_all_in("off")
    machine.close()
    until(lambda: not setting.is_alive())
    assert codes == [0]
    node.assert_all_in("on")


def test_set_on_gpus_that_cannot_do_it_is_not_supported(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, hardware=(gpu("0000:1b:00.0", L40S, group=1),)) as node:
        assert run(node, "set", "on") == 3
    assert "the chip of device id 0x26b9 is not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [["set"], ["set", "ON"], ["set", "maybe"], ["set", "on", "--when-busy", "evict"], ["frob"]]
)
def test_what_is_no_command_is_refused_with_exit_code_2(node: CcNode, capsys: Captured, args: list[str]) -> None:
    assert run(node, *args) == 2
    assert node.accesses == [0, 0, 0]
    assert "Traceback" not in capsys.readouterr().err


def test_a_mode_that_does_not_exist_is_answered_with_those_that_do(node: CcNode, capsys: Captured) -> None:
    run(node, "set", "ON")
    assert "'ON' is not one of 'off', 'on', 'devtools', 'ppcie'" in capsys.readouterr().err


@pytest.mark.parametrize(("root", "code"), [(".", 3), ("nowhere", 2)])
def test_a_host_root_without_sysfs_is_told(tmp_path: Path, capsys: Captured, root: str, code: int) -> None:
    assert run_command(cli, ["status", "--host-root", str(tmp_path / root)]) == code
    assert capsys.readouterr().err.startswith("error: ")
