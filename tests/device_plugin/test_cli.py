"""The command line: what `list` shows, what is refused, and the whole process from start to SIGTERM."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from device_plugin.cli import cli
from device_plugin.settings import variables_without_meaning
from nodelib.cli import run_command
from tests.device_plugin.process import process
from tests.device_plugin.small_node import GONE, PGPU, SmallNode, wait_until
from tests.fakes.kubelet import Kubelet

FIRST, SECOND, THIRD = "0000:3b:00.0", "0000:5e:00.0", "0000:86:00.0"


@pytest.fixture
def pair(small: SmallNode) -> SmallNode:
    small.add(FIRST, 65, numa_node=0)
    small.add(SECOND, 66, numa_node=1)
    return small


def listed(small: SmallNode, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run_command(cli, ["list", *options], obj=small.node) == 0
    return capsys.readouterr().out


def rows(small: SmallNode, capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, object]]:
    found = json.loads(listed(small, capsys, "-o", "json", *options))
    assert isinstance(found, list)
    return found


def test_the_table_shows_each_device_and_why_one_is_not_to_be_had(
    pair: SmallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.write(FIRST, "enable", "1")
    pair.unbind(SECOND)
    pair.bind(SECOND, "nvidia")
    pair.add(THIRD, None, driver="nvidia")
    said = listed(pair, capsys)
    assert said.splitlines()[:4] == [
        "ID  RESOURCE  ADDRESS       MODEL           NUMA  HEALTH     USED",
        "65  pgpu      0000:3b:00.0  H200 SXM 141GB  0     healthy    yes",
        "66  pgpu      0000:5e:00.0  H200 SXM 141GB  1     unhealthy  no",
        "-   -         0000:86:00.0  H200 SXM 141GB  0     left out   -",
    ]
    flowing = " ".join(said.split())
    assert "66: " in flowing
    assert "run: vfio-manager bind --device 0000:5e:00.0" in flowing
    assert "0000:86:00.0: left out: " in flowing
    assert max(len(line) for line in said.splitlines()) <= 80


def test_a_long_name_does_not_make_the_table_wider_than_a_terminal(
    small: SmallNode, capsys: pytest.CaptureFixture[str]
) -> None:
    small.add(FIRST, 65, device="0x26b1")  # AD102GL [RTX 6000 Ada Generation]
    small.add(SECOND, 65)
    said = listed(small, capsys, "--gpu-alias", "")
    assert "0000:3b:00.0 +1" in said
    assert "MODEL" not in said
    assert max(len(line) for line in said.splitlines()) <= 80


def test_programs_get_every_field(pair: SmallNode, capsys: pytest.CaptureFixture[str]) -> None:
    (pair.folder(SECOND) / "config").write_bytes(GONE)
    first, second = rows(pair, capsys)
    assert first == {
        "id": "65",
        "resource": "nvidia.com/pgpu",
        "advertised": True,
        "addresses": [FIRST],
        "models": ["H200 SXM 141GB"],
        "nodes": ["/dev/vfio/vfio", "/dev/vfio/65"],
        "numa_node": 0,
        "pcie_root": None,
        "health": "healthy",
        "in_use": False,
        "codes": [],
        "reasons": [],
        "remedies": [],
    }
    assert (second["health"], second["codes"]) == ("unhealthy", ["config-gone"])
    assert yaml.safe_load(listed(pair, capsys, "-o", "yaml")) == [first, second]


def test_what_cannot_be_read_is_shown_as_that(pair: SmallNode, capsys: pytest.CaptureFixture[str]) -> None:
    pair.write(FIRST, "class", "garbage")
    broken = rows(pair, capsys)[-1]
    assert (broken["addresses"], broken["advertised"]) == ([FIRST], False)
    assert "class makes no sense" in str(broken["reasons"])


def test_a_node_without_devices_is_an_answer(small: SmallNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(small, capsys) == "no NVIDIA GPU or NVSwitch on this node\n"
    assert rows(small, capsys) == []


def test_list_says_which_devices_wait_for_a_cdi_name(pair: SmallNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["codes"] for row in rows(pair, capsys, "--cdi", "require")] == [["cdi-unresolved"]] * 2
    assert [row["codes"] for row in rows(pair, capsys)] == [[], []]
    assert not (pair.root / "var/run").exists(), "list writes nothing"


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["list", "--host-root", "/nowhere/at/all"], 2, "host root /nowhere/at/all is not a folder"),
        (["list", "--gpu-alias", "a b"], 2, "--gpu-alias: 'a b' must begin with a letter"),
        (["list", "--gpu-alias", "x" * 64], 2, "is longer than 63 characters"),
        (["list", "--nvswitch-alias", "pgpu"], 2, "one name cannot mean two things"),
        (["list", "--vfio-mode", "both"], 2, "'both' is not one of"),
        (["list", "--cdi", "maybe"], 2, "'maybe' is not one of"),
        (["run", "--kubelet-socket", "kubelet.sock"], 2, "must be a path of the host from its root"),
        (["run", "--kubelet-socket", "/var/lib/"], 2, "must be a path of the host from its root"),
        (["run", "--busy-wait", "-1"], 2, "-1"),
        (["run", "--busy-wait", "nan"], 2, "is not a number of seconds"),
        (["run", "--health-interval", "inf"], 2, "is not a number of seconds"),
        (["run", "--when-held", "perhaps"], 2, "'perhaps' is not one of"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    options: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(cli, options) == code
    said = capsys.readouterr().err
    assert reason in said
    assert "Traceback" not in said


def test_a_host_root_without_sys_is_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(cli, ["list", "--host-root", str(tmp_path)]) == 3
    assert "is its /sys mounted under --host-root?" in capsys.readouterr().err


def test_every_flag_has_an_environment_variable() -> None:
    for command in cli.commands.values():
        for parameter in command.params:
            assert parameter.envvar, f"{command.name} {parameter.opts}"


# --- the process


def test_the_process_serves_until_sigterm_and_takes_its_sockets_with_it(pair: SmallNode, kubelet: Kubelet) -> None:
    with process(pair) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        said = running.finish()
    assert "serve nvidia.com/pgpu: 2 devices, 2 healthy" in said
    assert "Traceback" not in said
    assert [path.name for path in pair.plugins.glob("*.sock")] == ["kubelet.sock"]


def test_the_process_ends_at_sigterm_whatever_it_waits_for(pair: SmallNode) -> None:
    """A kubelet that accepts the connection and says nothing, from the first moment on."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(pair.plugins / "kubelet.sock"))
        silent.listen()
        with process(pair) as running:
            wait_until((pair.plugins / "nvidia.com_pgpu.sock").exists)
            running.finish()
    assert [path.name for path in pair.plugins.glob("*.sock")] == ["kubelet.sock"]


def test_a_killed_process_is_replaced_by_the_next_one(pair: SmallNode, kubelet: Kubelet) -> None:
    with process(pair) as first:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        with process(pair) as second:
            first.kill()
            assert (pair.plugins / "nvidia.com_pgpu.sock").is_socket()
            kubelet.wait_until(lambda: len(kubelet.registrations) >= 2 and kubelet.allocatable(PGPU) == 2)
            second.finish()


def test_the_pages_tell_what_the_loop_knows(pair: SmallNode, kubelet: Kubelet) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def page(name: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, ""

    kubelet.stop()
    with process(pair, LISTEN=f"127.0.0.1:{port}") as running:
        wait_until(lambda: "waiting for the kubelet" in page("readyz")[1])
        assert page("readyz")[0] == 503
        assert page("healthz") == (200, "ok\n")
        kubelet.start()
        wait_until(lambda: page("readyz")[0] == 200)
        status, metrics = page("metrics")
        assert status == 200
        assert 'device_plugin_devices{health="healthy",resource="nvidia.com/pgpu"} 2.0' in metrics
        assert 'device_plugin_registrations_total{resource="nvidia.com/pgpu",result="accepted"} 1.0' in metrics
        assert "device_plugin_kubelet_restarts_total 0.0" in metrics
        running.finish()


def test_a_listen_address_that_is_wrong_is_said_before_anything_is_served(pair: SmallNode) -> None:
    with process(pair, "--listen", "9400") as running:
        assert running.wait() == 2
        assert "--listen '9400' is not ADDRESS:PORT" in running.said


def test_an_alias_too_long_for_the_kernels_socket_paths_is_named(small: SmallNode, kubelet: Kubelet) -> None:
    small.add(FIRST, 65)
    with process(small, P_GPU_ALIAS="g" * 63) as running:
        wait_until(lambda: "the kernel takes 107" in running.said)
        assert "set a shorter alias" in running.finish()


def test_variables_of_existing_manifests_are_taken_and_those_without_meaning_are_told(
    pair: SmallNode, kubelet: Kubelet
) -> None:
    existing = {
        "NODE_NAME": "node-1",
        "POD_NAMESPACE": "gpu-operator",
        "P_GPU_ALIAS": "gpu",
        "NVSWITCH_ALIAS": "",
        "POD_SERVICE_ACCOUNT": "plugin",
        "ENABLE_GFD": "false",
        "GFD_IMAGE": "nvcr.io/nvidia/gfd",
    }
    pair.add("0000:83:00.0", 70, device="0x22a3", pci_class="0x068000")
    with process(pair, **existing) as running:
        kubelet.wait_until(lambda: kubelet.allocatable("nvidia.com/gpu") == 2)
        kubelet.wait_until(lambda: kubelet.allocatable("nvidia.com/GH100_H100_NVSWITCH") == 1)
        said = running.finish()
    ignored = "ENABLE_GFD, GFD_IMAGE, POD_NAMESPACE, POD_SERVICE_ACCOUNT"
    assert f"set, and without meaning for this device plugin: {ignored}" in said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ""),
        ({"NODE_NAME": "n", "P_GPU_ALIAS": "gpu", "ENABLE_GFD": ""}, ""),
        ({"ENABLE_GFD": "false"}, "set, and without meaning for this device plugin: ENABLE_GFD"),
        ({"ENABLE_GFD": "True", "GFD_IMAGE": "x"}, "ENABLE_GFD=True has no effect: this device plugin does not start"),
    ],
)
def test_who_expects_feature_discovery_is_told_that_it_does_not_come(environment: dict[str, str], said: str) -> None:
    assert variables_without_meaning(environment).startswith(said)
    assert bool(variables_without_meaning(environment)) is bool(said)


def test_cdi_names_that_nobody_makes_sure_of_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(cli, ["run", "--cdi", "off", "--device-list-strategy", "cdi-cri"]) == 2
    assert "use --cdi write or require" in capsys.readouterr().err
