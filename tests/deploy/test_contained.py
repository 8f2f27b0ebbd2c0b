"""The agents as processes with no more than a container gives: uid 0, named capabilities, a read-only root, its mounts.

Mounts and capabilities are real, the node is simulated. So this shows that the rights are enough for what is done to
files and sockets; what the kernel's own /sys asks for beyond file permissions it cannot show.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings as KataSettings
from tests.deploy.manifests import HOST, Agent, agents
from tests.fakes.kernel import FakeKernel
from tests.fakes.kubelet import Kubelet
from tests.fakes.polling import until
from tests.fakes.topologies import Drivers, build

GPU = "nvidia.com/pgpu"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module", autouse=True)
def _can_be_done() -> None:
    missing = [name for name in ("unshare", "mount", "setpriv") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"this machine has no {', '.join(missing)}")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts of one's own cannot be made here (CAP_SYS_ADMIN)")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    drivers = Drivers(gpu="vfio-pci", nvswitch="vfio-pci")
    with build("dgx-h100", tmp_path / "host", drivers=drivers) as kernel:
        yield kernel


def script(agent: Agent, host: Path, view: Path, command: Sequence[str]) -> str:
    """What puts the agent's mounts of *host* below *view*, makes all else read-only and gives every other right up."""
    lines = ["set -e", f"mount -t tmpfs tmpfs {view}"]
    for mount in agent.mounts:
        if not mount.is_below_host_root:
            continue
        source, target = f"{host}{mount.host_path}", f"{view}{mount.host_path}"
        lines += [f"mkdir -p {source} {target}", f"mount --bind {source} {target}"]
        if not mount.is_writable:
            lines.append(f"mount -o remount,ro,bind {target}")
    # Mounted by others: /, and what tests write to. The tree of the node itself is reached through its mounts alone.
    lines += [f"mount -o remount,ro {view}", "mount -o remount,ro,bind /"]
    kept = agent.container["securityContext"]["capabilities"].get("add", [])
    bounding = ",".join(("-all", *(f"+{name.lower()}" for name in kept)))
    rights = ("setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", "--no-new-privs")
    return "\n".join((*lines, f"exec {shlex.join((*rights, *command))}"))


@contextlib.contextmanager
def contained(agent: Agent, host: Path, folder: Path, *command: str) -> Iterator[subprocess.Popen[str]]:
    """The agent's *command*, contained; ended with SIGTERM."""
    view = folder / "view"
    view.mkdir()
    environment = {"PATH": os.environ["PATH"], **agent.environment(), "HOST_ROOT": str(view), "LANG": "C.UTF-8"}
    run = script(agent, host, view, (str(BIN / command[0]), *command[1:]))
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", run],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def capabilities(process: subprocess.Popen[str]) -> int:
    """The effective set of the process, as bits."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def running(agent: str) -> list[str]:
    """Its command and arguments, but for the pages, which need an address of their own."""
    found = agents()[agent]
    return [*found.container["command"], *(one for one in found.arguments() if not one.startswith("--listen"))]


def test_kata_manager_writes_its_specs(kernel: FakeKernel, tmp_path: Path) -> None:
    host, agent = kernel.host.root, agents()["kata-manager"]
    spec = host / "var/run/cdi/nvidia.com-pgpu.yaml"
    with contained(agent, host, tmp_path, *running("kata-manager"), "--no-load-kernel-modules") as process:
        until(lambda: spec.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "/dev/vfio/" in spec.read_text()


def test_device_plugin_registers_and_advertises_without_any_capability(kernel: FakeKernel, tmp_path: Path) -> None:
    host, agent = kernel.host.root, agents()["device-plugin"]
    SpecKeeper(kernel.node(), KataSettings()).write()
    folders = host / "var/lib/kubelet/device-plugins", host / "var/lib/kubelet/pod-resources"
    with (
        Kubelet(*folders) as kubelet,
        contained(agent, host, tmp_path, *running("device-plugin")) as process,
    ):
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 8 or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()[1]
        assert capabilities(process) == 0
        kubelet.admit_pod("one", requests={GPU: 1})
        kubelet.restart()
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 8, 60)
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said


@pytest.mark.parametrize("agent", ["vfio-manager", "cc-manager"])
def test_what_changes_devices_sees_all_of_them(agent: str, kernel: FakeKernel, tmp_path: Path) -> None:
    with contained(agents()[agent], kernel.host.root, tmp_path, agent, "status", "-o", "json") as process:
        shown, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert shown.count("0000:1b:00.0") >= 1


def test_a_file_that_is_not_mounted_cannot_be_seen(kernel: FakeKernel, tmp_path: Path) -> None:
    """That it is contained at all: what follows from a missing mount is what docs/security.md says."""
    agent = agents()["kata-manager"]
    agent.container["volumeMounts"] = [one for one in agent.container["volumeMounts"] if one["name"] != "sys"]
    with contained(agent, kernel.host.root, tmp_path, "kata-manager", "spec") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert f"cannot list {tmp_path}/view/sys/bus/pci/devices" in said


def test_what_is_mounted_read_only_cannot_be_written(kernel: FakeKernel, tmp_path: Path) -> None:
    agent = agents()["kata-manager"]
    (cdi,) = (one for one in agent.container["volumeMounts"] if one["mountPath"] == f"{HOST}/var/run/cdi")
    cdi["readOnly"] = True
    with contained(agent, kernel.host.root, tmp_path, "kata-manager", "spec", "--write") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Read-only file system" in said
