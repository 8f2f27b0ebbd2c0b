"""`doctor`: each check seen to pass, warn and fail on a simulated node, and the screen of it all."""

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
from tests.cc_manager.workloads import add_operands
from tests.fakes.gpu import FspError
from tests.fakes.kube.roles import UNDER_OPERATOR_ROLE
from tests.fakes.kubelet import Kubelet
from tests.fakes.parts import L40S, gpu

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def node(tmp_path: Path, capsys: Captured) -> Iterator[CcNode]:
    """Verified on and published so, by a daemon that has ended."""
    with CcNode(tmp_path, gpus=2, switches=1, labels={labels.MODE: "on"}, real_time=True) as node:
        assert run_command(cli, ["set", "on"], obj=node) == 0
        node.api.patch_node({"metadata": {"labels": {labels.STATE: "on", labels.READY: "true"}}})
        node.kernel.writes.clear()
        capsys.readouterr()
        yield node


class Doctor:
    """Runs the verb and reads its JSON."""

    def __init__(self, node: CcNode, captured: Captured, folder: Path) -> None:
        self._node = node
        self._captured = captured
        self._access = ("--node-name", NODE_NAME, "--kubeconfig", str(node.kubeconfig(folder)))
        self.code = -1

    def __call__(self, *args: str) -> dict[str, tuple[str, str, str]]:
        """Each check by name: its result, what was found, the remedy."""
        self.code = run_command(cli, ["doctor", "-o", "json", *(args or self._access)], obj=self._node)
        rows = json.loads(self._captured.readouterr().out)
        return {row["check"]: (row["result"], row["found"], row["remedy"]) for row in rows}

    def table(self) -> str:
        self.code = run_command(cli, ["doctor", *self._access], obj=self._node)
        return self._captured.readouterr().out


@pytest.fixture
def doctor(node: CcNode, capsys: Captured, tmp_path: Path) -> Doctor:
    return Doctor(node, capsys, tmp_path)


def test_a_node_that_can_work_passes_everything(node: CcNode, doctor: Doctor) -> None:
    root = node.node.host.root / "var/lib/kubelet"
    before = (len(node.kernel.writes), len(node.api.history))
    with Kubelet(root / "device-plugins", root / "pod-resources"):
        checks = doctor()
    assert {result for result, _, _ in checks.values()} == {"pass"}
    assert doctor.code == 0
    assert checks["label"][1] == "wanted on, published on/true, and what can be read of the devices agrees"
    assert checks["pod-resources"][1] == "the kubelet answers; pods with devices: none"
    assert (len(node.kernel.writes), len(node.api.history)) == before, "it changes nothing"


def test_the_screen_fits_a_terminal_and_every_problem_has_a_remedy(
    node: CcNode, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    node.api.allow -= {("patch", "nodes")}
    table = doctor.table()
    assert max(map(len, table.splitlines())) <= 80
    for check in doctor().values():
        assert bool(check[2]) is (check[0] != "pass"), check


def test_without_kubernetes_the_node_is_examined_and_the_rest_is_said_to_be_unknown(
    node: CcNode, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    checks = doctor("--host-root", "/")
    assert checks["api"][0] == "warn"
    assert "rights" not in checks
    assert checks["firmware"][:2] == ("pass", "answers for 3 devices")
    assert doctor.code == 0


def test_field_19_lockdown_is_named(node: CcNode, doctor: Doctor) -> None:
    node.kernel.set_lockdown("integrity")
    checks = doctor()
    assert checks["lockdown"][:2] == ("fail", "integrity: the kernel forbids mapping BAR0")
    assert "Secure Boot" in checks["lockdown"][2]
    assert checks["bar0"][0] == "fail"
    assert doctor.code == 1


def test_a_host_without_tee_is_warned_of(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=1, has_tee=False, real_time=True) as node:
        assert Doctor(node, capsys, tmp_path)()["tee"][0] == "warn"


def test_a_gpu_that_nobody_knows_fails(tmp_path: Path, capsys: Captured) -> None:
    hardware = (gpu("0000:1b:00.0", L40S, group=1), gpu("0000:1c:00.0", group=2))
    with CcNode(tmp_path, hardware=hardware, real_time=True) as node:
        assert Doctor(node, capsys, tmp_path)()["devices"][0] == "fail"


def test_a_driver_of_the_host_fails_with_what_to_do(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=1, driver="nvidia", real_time=True) as node:
        checks = Doctor(node, capsys, tmp_path)()
    assert checks["driver"][0] == "fail"
    assert checks["driver"][2] == "bind them: vfio-manager bind"
    assert checks["firmware"][:2] == ("warn", "no device could be asked: in use, asleep or out of reach")
    assert checks["staged"][:2] == ("warn", "not known: no device could be asked")
    assert "ask again" in checks["staged"][2]


def test_sleeping_devices_are_not_woken(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=2, awake=False, real_time=True) as node:
        checks = Doctor(node, capsys, tmp_path)()
        assert checks["bar0"][:2] == ("warn", "no registers were read; 2 asleep and not woken")
        assert node.kernel.writes == []


def test_a_silent_firmware_fails_and_its_device_is_named(node: CcNode, doctor: Doctor) -> None:
    broken = node.addresses[1]
    node.devices[broken].faults.fsp_errors = (FspError(0x77),)
    result, found, _ = doctor()["firmware"]
    assert result == "fail"
    assert found.startswith(f"1 of 3 do not tell what is staged: {broken}: could not read knob")
    node.devices[broken].faults.fsp_errors = ()


def test_while_a_daemon_is_at_work_its_firmware_is_not_asked(node: CcNode, doctor: Doctor) -> None:
    before = [len(device.complaints) for device in node.devices.values()]
    with mode_lock(node.node.host.resolve(LOCK_FILE)):
        checks = doctor()
    assert checks["firmware"][0] == "warn"
    assert "not asked" in checks["lock"][1]
    assert [len(device.complaints) for device in node.devices.values()] == before


def test_devices_in_use_and_staged_knobs_are_told(node: CcNode, doctor: Doctor) -> None:
    left, busy = node.addresses[1:]
    node.devices[left].knobs[8] = 0
    with node.kernel.start_vm(busy):
        checks = doctor()
    assert checks["busy"][1] == f"a virtual machine has {busy}"
    assert checks["staged"][:2] == ("warn", f"the next reset changes the mode of {left}")


def test_a_label_that_the_hardware_does_not_follow_is_told(node: CcNode, doctor: Doctor) -> None:
    node.want("off")
    result, found, remedy = doctor()["label"]
    assert (result, found.startswith("wanted off, published on/true, but 2 devices are in another mode")) == (
        "warn",
        True,
    )
    assert labels.MESSAGE in remedy
    node.want("yes")
    assert doctor()["label"][0] == "fail"


def test_operands_that_stay_paused_without_a_change_are_told(node: CcNode, doctor: Doctor) -> None:
    add_operands(node, "vfio-manager")
    assert doctor()["operands"][1] == "none is paused; a change of mode pauses 1"
    node.api.set_label(key_of("vfio-manager"), PAUSED)
    assert doctor()["operands"][:2] == ("fail", "paused, and no change is under way: vfio-manager")


@pytest.mark.parametrize(
    ("right", "result"),
    [
        (("patch", "nodes"), "fail"),
        (("list", "pods"), "fail"),
        (("watch", "nodes"), "warn"),
        (("create", "events"), "warn"),
        (("create", "pods/eviction"), "warn"),
    ],
)
def test_a_right_that_is_missing_is_named_with_what_is_lost(
    node: CcNode, doctor: Doctor, right: tuple[str, str], result: str
) -> None:
    node.api.allow.discard(right)
    found = doctor()["rights"]
    assert found[0] == result
    assert " ".join(right) in found[1]


def test_under_an_operator_what_is_missing_can_be_done_without(node: CcNode, doctor: Doctor) -> None:
    node.api.allow.clear()
    node.api.allow |= UNDER_OPERATOR_ROLE
    result, found, _ = doctor()["rights"]
    assert result == "warn"
    assert "create pods/eviction: a change waits for the pods, and evicts none" in found


def test_an_api_server_that_is_away_and_a_node_that_is_not_there_are_told(node: CcNode, doctor: Doctor) -> None:
    node.api.stop()
    assert doctor()["api"][0] == "fail"
    node.api.start()
    node.api.remove_node()
    assert 'nodes "node-1" not found' in doctor()["api"][1]
    node.api.add_node()


def test_a_kubelet_that_is_not_there_is_a_warning_and_one_that_does_not_answer_a_failure(
    node: CcNode, doctor: Doctor
) -> None:
    assert doctor()["pod-resources"][0] == "warn"
    socket = node.node.host.root / "var/lib/kubelet/pod-resources/kubelet.sock"
    socket.parent.mkdir(parents=True)
    socket.touch()
    assert doctor()["pod-resources"][0] == "fail"


def test_a_kubelet_that_is_just_restarting_is_asked_again_later(node: CcNode, doctor: Doctor) -> None:
    """Its folder is there and its socket is not: that is no node without a kubelet."""
    (node.node.host.root / "var/lib/kubelet/pod-resources").mkdir(parents=True)
    result, found, remedy = doctor()["pod-resources"]
    assert (result, remedy) == ("fail", "no change of mode is begun until it answers")
    assert found.startswith("there is no socket ")
