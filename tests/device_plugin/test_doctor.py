"""`doctor`: each check seen to pass, warn and fail, and the screen of it all."""

import contextlib
import json
import socket
from dataclasses import replace

import pytest

from device_plugin.cli import cli
from device_plugin.doctor import examine
from device_plugin.settings import CdiMode, Settings
from nodelib.cli import run_command
from nodelib.doctor import Check, Outcome
from nodelib.errors import NodeError
from nodelib.node import Node
from nodelib.pod_resources import KubeletUnreachable, PodDevices, PodResources, PodResourcesError
from nodelib.pod_resources_client import PodResourcesClient
from tests.device_plugin.small_node import GONE, PGPU, RunningPlugin, SmallNode
from tests.fakes.kubelet import Kubelet

FIRST, SECOND = "0000:3b:00.0", "0000:5e:00.0"
PASS, WARN, FAIL = Outcome.PASS, Outcome.WARN, Outcome.FAIL
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def fit(small: SmallNode) -> SmallNode:
    """Two GPUs on a node where every check but the daemon's passes once there is a kubelet."""
    small.add(FIRST, 65)
    small.add(SECOND, 66)
    for name in ("dev/null", "dev/vfio/vfio", "dev/vfio/65", "dev/vfio/66"):
        (small.root / name).parent.mkdir(parents=True, exist_ok=True)
        (small.root / name).touch()
    return small


def checks(small: SmallNode, *, pods: PodResources | None = None, settings: Settings | None = None) -> dict[str, Check]:
    asked = pods or PodResourcesClient(small.root / "pods/kubelet.sock")
    found = examine(small.node, settings or Settings(), asked)
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert bool(check.remedy) is (check.outcome is not PASS), check
    return {check.name: check for check in found}


def outcomes(found: dict[str, Check], outcome: Outcome) -> set[str]:
    return {name for name, check in found.items() if check.outcome is outcome}


class Pods:
    """A kubelet that says what it is told to."""

    def __init__(self, *given: PodDevices, error: NodeError | None = None) -> None:
        self._given = given
        self._error = error

    def list(self) -> tuple[PodDevices, ...]:
        if self._error:
            raise self._error
        return self._given

    def get(self, namespace: str, pod: str) -> tuple[PodDevices, ...]:
        return tuple(one for one in self._given if (one.namespace, one.pod) == (namespace, pod))

    def offers_get(self) -> bool:
        return True


# --- a node on which all is well


def test_every_check_passes_where_the_daemon_runs(fit: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(fit.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        kubelet.admit_pod("tenant", requests={PGPU: 1})
        found = checks(fit)
    assert outcomes(found, PASS) == set(found)
    assert found["pods"].text == "1 of 2 devices are given to 1 pods"
    assert found["devices"].text == "2 devices, 2 healthy"
    assert found["served"].text == "a plugin answers for nvidia.com/pgpu"


def test_a_node_without_a_gpu_can_work(small: SmallNode, kubelet: Kubelet) -> None:
    found = checks(small)
    assert outcomes(found, FAIL) == set()
    assert found["devices"].text == "no device to advertise on this node"
    assert "served" not in found


def test_nothing_on_the_node_is_changed(fit: SmallNode, kubelet: Kubelet) -> None:
    before = {path: path.lstat().st_mtime_ns for path in fit.root.rglob("*")}
    checks(fit)
    assert {path: path.lstat().st_mtime_ns for path in fit.root.rglob("*")} == before


# --- what is wrong


def test_a_daemon_that_does_not_run_is_a_warning(fit: SmallNode, kubelet: Kubelet) -> None:
    found = checks(fit)
    assert outcomes(found, WARN) == {"served"}
    assert found["served"].text == "no plugin answers for nvidia.com/pgpu"


def test_a_kubelet_that_is_away_is_told_apart_from_one_that_is_deaf(fit: SmallNode, kubelet: Kubelet) -> None:
    kubelet.stop()
    found = checks(fit)
    assert found["kubelet"].outcome is FAIL
    assert found["kubelet"].text == f"no socket {kubelet.kubelet_socket}"
    assert found["pod-resources"].outcome is WARN
    assert "only doctor needs it" in found["pod-resources"].remedy
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(kubelet.kubelet_socket))
    found = checks(fit)
    assert (found["kubelet"].outcome, found["kubelet"].text) == (FAIL, f"nobody listens on {kubelet.kubelet_socket}")


def test_a_plugin_folder_that_is_not_mounted_is_named(fit: SmallNode) -> None:
    fit.plugins.rmdir()
    found = checks(fit)
    assert (found["plugin-folder"].outcome, found["plugin-folder"].text) == (FAIL, f"there is no {fit.plugins}")
    assert "file-events" not in found


def test_an_alias_whose_socket_the_kernel_would_not_take_is_found_before_the_daemon_does(
    fit: SmallNode, kubelet: Kubelet
) -> None:
    settings = Settings(cdi=CdiMode.OFF)
    found = checks(fit, settings=replace(settings, naming=replace(settings.naming, gpu_alias="g" * 63)))
    assert found["socket-paths"].outcome is FAIL
    assert "set a shorter alias" in found["socket-paths"].remedy


def test_kata_needs_get_and_where_it_is_off_that_is_a_failure(fit: SmallNode, kubelet: Kubelet) -> None:
    kubelet.pod_resources_get_enabled = False
    found = checks(fit)
    assert found["pod-resources"].outcome is FAIL
    assert found["pod-resources"].text == "Get is switched off: Kata finds no device of any pod"
    assert "KubeletPodResourcesGet" in found["pod-resources"].remedy
    assert found["pods"].outcome is PASS


def test_what_the_kubelet_says_is_repeated(fit: SmallNode, kubelet: Kubelet) -> None:
    found = checks(fit, pods=Pods(error=PodResourcesError("refused: rejected by rate limit")))["pod-resources"]
    assert (found.outcome, found.text) == (WARN, "refused: rejected by rate limit")
    found = checks(fit, pods=Pods(error=KubeletUnreachable("nobody there; look at it")))["pod-resources"]
    assert (found.outcome, found.text, found.remedy) == (WARN, "not to be seen: nobody there", "look at it")


def test_a_pod_whose_device_is_gone_is_named(fit: SmallNode, kubelet: Kubelet) -> None:
    first, lost, foreign = (
        PodDevices("ml", "a", "main", PGPU, ("65",)),
        PodDevices("ml", "b", "main", PGPU, ("70",)),
        PodDevices("ml", "c", "main", "example.com/nic", ("70",)),
    )
    found = checks(fit, pods=Pods(first, lost, foreign))
    assert found["pods"].outcome is WARN
    assert found["pods"].text == "ml/b has nvidia.com/pgpu=70, which is not here any more"
    assert checks(fit, pods=Pods(first, foreign))["pods"].text == "1 of 2 devices are given to 1 pods"


def test_some_unhealthy_devices_are_a_warning_and_all_of_them_a_failure(fit: SmallNode, kubelet: Kubelet) -> None:
    fit.unbind(FIRST)
    found = checks(fit)["devices"]
    assert found.outcome is WARN
    assert found.text.startswith("2 devices, 1 healthy: 65: 0000:3b:00.0 has no driver")
    assert found.remedy == "run: vfio-manager bind --device 0000:3b:00.0"
    fit.unbind(SECOND)
    found = checks(fit)["devices"]
    assert found.outcome is FAIL
    assert found.text.startswith("2 devices, 0 healthy: 65 and 1 more: 0000:3b:00.0 has no driver")


def test_a_gpu_that_fell_off_the_bus_is_found(fit: SmallNode, kubelet: Kubelet) -> None:
    (fit.folder(FIRST) / "config").write_bytes(GONE)
    assert "Xid 79" in checks(fit)["devices"].remedy


def test_a_gpu_without_an_iommu_is_a_failure_with_the_remedy(fit: SmallNode, kubelet: Kubelet) -> None:
    fit.add("0000:86:00.0", None, driver="nvidia")
    found = checks(fit)["left-out"]
    assert (found.outcome, found.text) == (FAIL, "0000:86:00.0: in no IOMMU group")
    assert "intel_iommu=on" in found.remedy


def test_a_function_that_cannot_be_read_is_told(fit: SmallNode, kubelet: Kubelet) -> None:
    fit.write(FIRST, "class", "garbage")
    found = checks(fit)["left-out"]
    assert found.outcome is WARN
    assert found.text.startswith("0000:3b:00.0: class makes no sense")


def test_a_dev_that_is_not_mounted_is_no_fault_of_the_devices(small: SmallNode, kubelet: Kubelet) -> None:
    small.add(FIRST, 65)
    found = checks(small)
    assert found["host-dev"].outcome is WARN
    assert found["devices"].outcome is PASS


def test_events_that_do_not_come_are_a_warning(fit: SmallNode, kubelet: Kubelet) -> None:
    silent = Node(fit.node.host, fit.node.sysfs, lambda _wakeups, _names: contextlib.nullcontext(False))
    found = {check.name: check for check in examine(silent, Settings(), Pods())}
    assert found["uevents"].outcome is WARN
    assert found["uevents"].text == "not heard: changes are noticed at the timer's pace"


# --- CDI


def test_specs_that_nobody_wrote_are_missed_where_kata_manager_writes_them(fit: SmallNode, kubelet: Kubelet) -> None:
    found = checks(fit, settings=Settings(cdi=CdiMode.REQUIRE))
    assert found["devices"].outcome is FAIL
    assert "65 and 1 more: no CDI spec has the name nvidia.com/pgpu=65" in found["devices"].text
    assert found["cdi"].text == "0 names resolve, no spec is broken or in conflict"


def test_a_broken_spec_is_named(fit: SmallNode, kubelet: Kubelet) -> None:
    broken = fit.root / "var/run/cdi/broken.yaml"
    broken.parent.mkdir(parents=True)
    broken.write_text("kind: [")
    found = checks(fit, settings=Settings(cdi=CdiMode.REQUIRE))
    assert found["cdi"].outcome is FAIL
    assert str(broken) in found["cdi"].text


def test_a_foreign_file_in_our_place_is_named(fit: SmallNode, kubelet: Kubelet) -> None:
    foreign = fit.root / "var/run/cdi/nvidia.com-pgpu.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("kind: [")
    found = checks(fit)
    assert found["cdi"].outcome is FAIL
    assert "is somebody else's file" in found["cdi"].text


def test_a_cdi_folder_that_is_a_file_is_named(fit: SmallNode, kubelet: Kubelet) -> None:
    (fit.root / "var/run").mkdir(parents=True)
    (fit.root / "var/run/cdi").touch()
    assert "cannot list the CDI folder" in checks(fit)["cdi"].text


def test_without_cdi_nothing_is_looked_at(fit: SmallNode, kubelet: Kubelet) -> None:
    assert checks(fit, settings=Settings(cdi=CdiMode.OFF))["cdi"].text == "not looked at (--cdi off)"


# --- the command


def test_the_exit_code_and_the_screen_tell(fit: SmallNode, kubelet: Kubelet, capsys: Capture) -> None:
    asked = ["--pod-resources-socket", "/pods/kubelet.sock"]
    assert run_command(cli, ["doctor", *asked], obj=fit.node) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RESULT", "CHECK", "FOUND"]
    assert max(map(len, lines)) <= 80
    assert "this node can work: 12 checks, none failed, 1 warning" in lines
    kubelet.stop()
    assert run_command(cli, ["doctor", *asked, "-o", "json"], obj=fit.node) == 1
    found = json.loads(capsys.readouterr().out)
    assert {row["check"]: row["result"] for row in found}["kubelet"] == "fail"
