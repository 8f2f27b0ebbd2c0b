"""`doctor`: each check seen to pass, warn and fail on hosts like real ones, and the screen of it all. Issue 4."""

import json
from collections.abc import Callable, Iterator

import pytest

from kata_manager.cli import cli
from nodelib.cli import run_command
from tests.fakes.kernel import FakeKernel
from tests.fakes.kubelet import Kubelet
from tests.fakes.parts import gpu
from tests.kata_manager.builders import PGPU, folder_of, put
from tests.kata_manager.fit_host import (
    CONTAINERD,
    CONTAINERD_2,
    CONTAINERD_3,
    CRIO,
    CRIO_TEXT,
    HYPERVISOR_FILES,
    KATA,
    KATA_TEXT,
    kubelet_of,
    make_fit,
    put_file,
)

Capture = pytest.CaptureFixture[str]
Row = dict[str, str]


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def fit(kernel: FakeKernel) -> FakeKernel:
    make_fit(kernel)
    return kernel


@pytest.fixture
def kubelet(fit: FakeKernel) -> Iterator[Kubelet]:
    with kubelet_of(fit) as kubelet:
        yield kubelet


def examined(kernel: FakeKernel, capsys: Capture, *args: str) -> dict[str, Row]:
    """The checks by name, as programs get them; the exit code is what they come to, and people are told the same."""
    code = run_command(cli, ["doctor", "-o", "json", *args], obj=kernel.node())
    captured = capsys.readouterr()
    assert captured.err == ""
    rows: list[Row] = json.loads(captured.out)
    assert code == int(any(row["result"] == "fail" for row in rows))
    assert run_command(cli, ["doctor", *args], obj=kernel.node()) == code
    lines = capsys.readouterr().out.splitlines()
    flowing = " ".join(" ".join(lines).split())
    for row in rows:
        assert bool(row["remedy"]) is (row["result"] != "pass"), row
        if row["result"] != "pass":
            assert f"{row['result']} {row['check']}: {row['found']}; {row['remedy']}" in flowing
    by_name = {row["check"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def results(checks: dict[str, Row], result: str) -> set[str]:
    return {name for name, row in checks.items() if row["result"] == result}


# --- a host that is set up


def test_every_check_passes_on_a_host_that_is_set_up(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    assert run_command(cli, ["doctor"], obj=fit.node()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split(maxsplit=2)[:2] for line in lines[1:13]] == [
        ["pass", "cdi-folder"],
        ["pass", "cdi-specs"],
        ["pass", "cdi-names"],
        ["pass", "vhost-modules"],
        ["pass", "containerd"],
        ["pass", "handlers"],
        ["pass", "kata-config"],
        ["pass", "cold-plug"],
        ["pass", "kata-kubelet"],
        ["pass", "kata-files"],
        ["pass", "kubelet"],
        [],
    ]
    assert lines[-1] == "this node can work: 11 checks, none failed, no warning" or "none failed" in lines[-1]


@pytest.mark.parametrize("text", [CONTAINERD_2, CONTAINERD_3], ids=["version 2", "version 3"])
def test_both_formats_of_containerd_are_read(kubelet: Kubelet, fit: FakeKernel, text: str, capsys: Capture) -> None:
    put_file(fit, CONTAINERD, text)
    checks = examined(fit, capsys)
    assert results(checks, "pass") == set(checks)
    assert checks["handlers"]["found"] == "kata-qemu-nvidia-gpu"


def test_crio_with_drop_ins_is_read_the_later_ones_winning(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    (fit.host.root / CONTAINERD).unlink()
    put_file(fit, CRIO, '[crio.runtime]\ncdi_spec_dirs = ["/opt/cdi"]\n')
    put_file(fit, f"{CRIO}.d/10-kata", CRIO_TEXT)
    checks = examined(fit, capsys)
    assert results(checks, "pass") == set(checks)
    assert "containerd" not in checks
    put_file(fit, f"{CRIO}.d/20-later", '[crio.runtime]\ncdi_spec_dirs = ["/opt/cdi"]\n')
    assert results(examined(fit, capsys), "fail") == {"cri-o"}


def test_k3s_has_its_configuration_elsewhere(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    (fit.host.root / CONTAINERD).rename(fit.host.root / "config.toml")
    put_file(fit, "var/lib/rancher/k3s/agent/etc/containerd/config.toml", CONTAINERD_2)
    assert examined(fit, capsys)["containerd"]["result"] == "pass"
    assert examined(fit, capsys, "--containerd-config", "/config.toml")["containerd"]["result"] == "pass"


def test_a_node_without_gpus_has_nothing_to_name(fit: FakeKernel, kubelet: Kubelet, capsys: Capture) -> None:
    for address in fit.addresses:
        fit.unplug(address)
    assert examined(fit, capsys)["cdi-names"]["found"] == "no NVIDIA device on this node: nothing to name"


# --- one thing wrong at a time


def _file(path: str, content: str) -> Callable[[FakeKernel], object]:
    return lambda kernel: put_file(kernel, path, content)


def _without(path: str) -> Callable[[FakeKernel], object]:
    return lambda kernel: (kernel.host.root / path).unlink()


def _containerd(old: str, new: str) -> Callable[[FakeKernel], object]:
    assert old in CONTAINERD_2
    return _file(CONTAINERD, CONTAINERD_2.replace(old, new))


def _kata(old: str, new: str) -> Callable[[FakeKernel], object]:
    assert old in KATA_TEXT
    return _file(KATA, KATA_TEXT.replace(old, new))


IMPORTED = """\
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-x]
runtime_type = "io.containerd.kata.v2"
"""
OTHER_FOLDERS = _containerd('"/var/run/cdi"', '"/opt/cdi"')
EXPOSED = _containerd("_host_devices = true", "_host_devices = false")
OTHER_SOCKET = _kata("pod-resources/kubelet.sock", "other.sock")


def _add_unbound(kernel: FakeKernel) -> None:
    kernel.add_device(gpu("0000:f0:00.0", group=240), driver="nvidia")


WRONG: list[tuple[str, str, Callable[[FakeKernel], object], str]] = [
    # check, result, how it comes about, words of it
    ("cdi-folder", "warn", lambda k: folder_of(k).chmod(0o700), "not everybody may read"),
    ("cdi-folder", "warn", lambda k: folder_of(k).chmod(0o777), "anybody may write"),
    ("cdi-specs", "fail", lambda k: put(k, "x.yaml", "{"), "broken CDI spec"),
    ("cdi-names", "fail", lambda k: (folder_of(k) / PGPU).unlink(), "2 of 2 devices have no spec yet"),
    ("cdi-names", "warn", _add_unbound, "1 of 3 devices cannot be named: nvidia.com/pgpu=240"),
    ("vhost-modules", "warn", lambda k: _unload(k, "vhost_net"), "vhost_net unknown"),
    ("containerd", "warn", _containerd("enable_cdi = true", "enable_cdi = false"), "enable_cdi is off"),
    ("containerd", "warn", _containerd("  enable_cdi = true\n", ""), "1.x and 2.x read it differently as to CDI"),
    ("containerd", "fail", OTHER_FOLDERS, "cdi_spec_dirs are /etc/cdi, /opt/cdi, without /var/run/cdi"),
    ("containerd", "pass", _containerd('"/var/run/cdi"', '"/run/cdi/"'), "reads CDI specs from /etc/cdi, /run/cdi/"),
    ("handlers", "warn", EXPOSED, "privileged pods get the host's"),
    ("kata-config", "fail", _without(KATA), "there is no /opt/kata/share/defaults"),
    ("cold-plug", "fail", _kata('"root-port"', '"no-port"'), "its VMs start without a GPU"),
    ("cold-plug", "fail", _kata('cold_plug_vfio = "root-port"\n', ""), "its VMs start without a GPU"),
    ("kata-kubelet", "fail", OTHER_SOCKET, "the kubelet's is /var/lib/kubelet/pod"),
    ("kata-kubelet", "fail", _kata("pod_resource_api_sock", "# x"), "pod_resource_api_sock is not set"),
    ("kata-files", "fail", _without(HYPERVISOR_FILES[0]), "its path /opt/kata/bin/qemu-system-x86_64 is missing"),
    ("kata-files", "fail", _without(HYPERVISOR_FILES[1]), "its kernel /opt/kata/share/kata-containers/vmlinuz"),
]


def _unload(kernel: FakeKernel, module: str) -> None:
    (kernel.host.root / "sys/module" / module / "initstate").unlink()
    (kernel.host.root / "sys/module" / module / "refcnt").unlink()
    (kernel.host.root / "sys/module" / module).rmdir()


@pytest.mark.parametrize(
    "wrong", WRONG, ids=[f"{number}-{check}-{result}" for number, (check, result, *_) in enumerate(WRONG)]
)
def test_what_is_wrong_is_told_with_its_remedy_and_nothing_else_is(
    kubelet: Kubelet, fit: FakeKernel, wrong: tuple[str, str, Callable[[FakeKernel], object], str], capsys: Capture
) -> None:
    check, result, spoil, words = wrong
    spoil(fit)
    checks = examined(fit, capsys)
    assert checks[check]["result"] == result
    assert words in checks[check]["found"]
    # A configuration of Kata that cannot be read has no further checks.
    assert {name for name, row in checks.items() if row["result"] != "pass"} <= {check}


def test_modules_that_are_loadable_or_absent_are_told_apart(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    _unload(fit, "vhost_net")
    modules = f"lib/modules/{fit.release}"
    put_file(fit, f"{modules}/modules.builtin", "")
    put_file(fit, f"{modules}/modules.dep", "kernel/drivers/vhost/vhost_net.ko:\n")
    assert examined(fit, capsys)["vhost-modules"]["found"] == "vhost_vsock loaded, vhost_net loadable"
    put_file(fit, f"{modules}/modules.dep", "")
    assert examined(fit, capsys)["vhost-modules"]["result"] == "fail"
    put_file(fit, f"{modules}/modules.builtin", "kernel/drivers/vhost/vhost_net.ko\n")
    assert examined(fit, capsys)["vhost-modules"]["found"] == "vhost_vsock loaded, vhost_net built in"


def test_a_machine_without_an_iommu_fails_with_the_reason(fit: FakeKernel, kubelet: Kubelet, capsys: Capture) -> None:
    # facts/field-problems.md, row 23
    for address in fit.addresses:
        fit.unplug(address)
    fit.add_device(gpu("0000:3b:00.0"), driver="nvidia")
    row = examined(fit, capsys)["cdi-names"]
    assert row["result"] == "fail"
    assert "it is in no IOMMU group" in row["found"]
    assert row["remedy"].startswith("switch the IOMMU on")


# --- the kubelet


def test_no_kubelet_fails(fit: FakeKernel, capsys: Capture) -> None:
    row = examined(fit, capsys)["kubelet"]
    assert row["result"] == "fail"
    assert f"there is no socket {fit.host.root}/var/lib/kubelet/pod-resources/kubelet.sock" in row["found"]


def test_a_kubelet_whose_get_is_off_fails_with_the_feature_gate(
    kubelet: Kubelet, fit: FakeKernel, capsys: Capture
) -> None:
    kubelet.pod_resources_get_enabled = False
    row = examined(fit, capsys)["kubelet"]
    assert (row["result"], row["found"]) == ("fail", "PodResources answers, but its Get is disabled")
    assert "KubeletPodResourcesGet" in row["remedy"]


# --- configurations of the runtimes


def test_a_configuration_that_does_not_parse_names_the_file_and_the_line(
    kubelet: Kubelet, fit: FakeKernel, capsys: Capture
) -> None:
    put_file(fit, CONTAINERD, CONTAINERD_2 + "[plugins\n")
    checks = examined(fit, capsys)
    assert checks["containerd"]["found"].startswith("it would not start: /etc/containerd/config.toml is no TOML")
    assert f"at line {len(CONTAINERD_2.splitlines()) + 1}" in checks["containerd"]["found"]
    assert results(checks, "fail") == {"containerd"}
    assert checks["handlers"]["result"] == "warn"


@pytest.mark.parametrize("content", ["\x00", "a = [\n" * 5000, "[" * 100_000, "x" * 100])
def test_whatever_stands_in_a_configuration_there_is_no_traceback(
    kubelet: Kubelet, fit: FakeKernel, content: str, capsys: Capture
) -> None:
    put_file(fit, KATA, content)
    assert results(examined(fit, capsys), "fail") == {"kata-config"}
    put_file(fit, CONTAINERD, content)
    assert results(examined(fit, capsys), "fail") == {"containerd"}


def test_an_import_that_containerd_1_would_let_replace_all_is_told(
    kubelet: Kubelet, fit: FakeKernel, capsys: Capture
) -> None:
    put_file(fit, "etc/containerd/conf.d/kata.toml", IMPORTED)
    checks = examined(fit, capsys)
    assert checks["containerd"]["found"] == (
        "releases 1.x and 2.x read it differently as to CDI, and nobody tells which runs"
    )
    assert "--containerd-socket" in checks["containerd"]["remedy"]


def test_no_runtime_at_all_is_a_warning_about_the_view(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    (fit.host.root / CONTAINERD).unlink()
    checks = examined(fit, capsys)
    assert checks["runtime"]["result"] == "warn"
    assert checks["handlers"]["result"] == "warn"
    assert "kata-config" not in checks
    assert examined(fit, capsys, "--runtime", "containerd")["containerd"]["result"] == "warn"


def test_without_a_handler_of_kata_nothing_can_start(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    put_file(fit, CONTAINERD, CONTAINERD_2.replace("io.containerd.kata-qemu-nvidia-gpu.v2", "io.containerd.runc.v2"))
    assert examined(fit, capsys)["handlers"]["found"] == "no runtime handler of Kata is configured"


def test_pods_may_name_their_gpu_in_an_annotation_where_kata_asks_no_kubelet(
    kubelet: Kubelet, fit: FakeKernel, capsys: Capture
) -> None:
    # facts/kubelet-cdi-kata-contract.md, 3
    put_file(fit, KATA, KATA_TEXT.replace("pod_resource_api_sock", "# x"))
    put_file(fit, CONTAINERD, CONTAINERD_2.replace("io.katacontainers.*", "cdi.k8s.io/*"))
    assert examined(fit, capsys)["kata-kubelet"]["result"] == "warn"


def test_a_drop_in_of_kata_counts(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    put_file(fit, KATA, KATA_TEXT.replace('cold_plug_vfio = "root-port"\n', ""))
    folder = KATA.rpartition("/")[0]
    put_file(fit, f"{folder}/config.d/10-gpu.toml", '[hypervisor.qemu]\ncold_plug_vfio = "switch-port"\n')
    assert examined(fit, capsys)["cold-plug"]["found"] == "switch-port"


def test_a_cdi_folder_that_kata_does_not_read_fails(kubelet: Kubelet, fit: FakeKernel, capsys: Capture) -> None:
    put_file(fit, CONTAINERD, CONTAINERD_2.replace('"/etc/cdi"', '"/opt/cdi"'))
    row = examined(fit, capsys, "--cdi-dir", "/opt/cdi")["containerd"]
    assert row["result"] == "fail"
    assert "but Kata itself reads only /etc/cdi and /var/run/cdi" in row["found"]


@pytest.mark.parametrize("option", ["--containerd-config", "--crio-config", "--containerd-socket"])
def test_a_path_that_is_not_from_the_root_is_wrong_usage(fit: FakeKernel, option: str, capsys: Capture) -> None:
    assert run_command(cli, ["doctor", option, "etc/x"], obj=fit.node()) == 2
    assert f"{option} 'etc/x' must be a path of the host from its root" in capsys.readouterr().err
