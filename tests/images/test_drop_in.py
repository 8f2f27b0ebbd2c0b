"""The commands of an existing GPU operator's manifests, as processes with the console scripts of an environment.

What needs an image's file tree (/bin/entrypoint.sh, mounts without a host root) is in tests/images/built.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.agents import ROOT
from kata_manager.pid_file import NAME as PID_FILE
from tests.device_plugin.small_node import PGPU, SmallNode
from tests.fakes.kernel import FakeKernel
from tests.fakes.kubelet import Kubelet
from tests.fakes.parts import gpu
from tests.fakes.polling import DEADLINE_S, until
from tests.images.manifests import EXISTING
from tests.kata_manager.builders import add_two_gpus

SCRIPTS = Path(sys.executable).parent
ENTRY_POINT_OF_KATA_MANAGER = ROOT / "agents/kata_manager/entrypoint.sh"


@contextlib.contextmanager
def started(agent: str, *command: str, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """*command* with the variables of the agent's manifest, *changes* applied, until the block ends."""
    variables = {"PATH": f"{SCRIPTS}:/usr/sbin:/usr/bin:/bin", **EXISTING[agent].environment, **changes}
    with subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a shell's `sleep` holds our pipe


def stopped(process: subprocess.Popen[str], daemon: int | None = None) -> str:
    """What was said until the end of a daemon (*process* or a child of it) by SIGTERM, which has to be a good one."""
    os.kill(daemon or process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


def test_vfio_manager_binds_everything_and_then_its_shell_sleeps(tmp_path: Path) -> None:
    with FakeKernel(tmp_path) as kernel:
        add_two_gpus(kernel)
        with started("vfio_manager", *EXISTING["vfio_manager"].command, HOST_ROOT=str(tmp_path)) as shell:
            assert shell.stdout is not None
            said = [
                line for line in iter(shell.stdout.readline, "every chosen function is on its VFIO driver\n") if line
            ]
            children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children")
            until(
                lambda: any(Path(f"/proc/{one}/comm").read_text() == "sleep\n" for one in children.read_text().split())
            )
            assert shell.poll() is None, said
        assert kernel.writes == []


def test_vfio_managers_shell_fails_and_is_restarted_where_a_gpu_cannot_be_bound(tmp_path: Path) -> None:
    """No IOMMU: the pod must not look ready."""
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(gpu("0000:3b:00.0", group=None), driver="nvidia")
        with started("vfio_manager", *EXISTING["vfio_manager"].command, HOST_ROOT=str(tmp_path)) as shell:
            said, _ = shell.communicate(timeout=DEADLINE_S)
        assert shell.returncode != 0
        assert "IOMMU" in said


def test_vfio_managers_pre_stop_is_done_at_once_where_nothing_is_bound(tmp_path: Path) -> None:
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(gpu("0000:3b:00.0", group=65), driver=None)
        with started("vfio_manager", *EXISTING["vfio_manager"].pre_stop, HOST_ROOT=str(tmp_path)) as shell:
            said, _ = shell.communicate(timeout=DEADLINE_S)
    assert shell.returncode == 0, said


def test_kata_managers_entry_point_begins_the_daemon_whose_pid_is_in_the_file(tmp_path: Path) -> None:
    """Debian's shell stays beside it, and passes no signal on; there the pid is the daemon's all the same."""
    with FakeKernel(tmp_path / "host") as kernel:
        add_two_gpus(kernel)
        file = tmp_path / "artifacts" / PID_FILE
        changes = {"HOST_ROOT": str(kernel.host.root), "KATA_ARTIFACTS_DIR": str(file.parent)}
        with started("kata_manager", "/bin/sh", "-c", str(ENTRY_POINT_OF_KATA_MANAGER), **changes) as process:
            until(lambda: file.exists() and bool(list(kernel.host.resolve("/var/run/cdi").glob("nvidia.com-*"))))
            daemon = int(file.read_text())
            assert b"k8s-kata-manager" in Path(f"/proc/{daemon}/cmdline").read_bytes()
            said = stopped(process, daemon)
        assert not file.exists()
    assert "CONFIG_FILE is set and has no effect" in said


def test_the_device_plugin_is_called_nvidia_sandbox_device_plugin_and_gets_no_arguments(tmp_path: Path) -> None:
    small = SmallNode(tmp_path)
    small.add("0000:3b:00.0", 65)
    with Kubelet(small.plugins, small.root / "pods") as kubelet:
        changes = {"HOST_ROOT": str(small.root), "CDI": "off"}
        with started("device_plugin", f"{SCRIPTS}/nvidia-sandbox-device-plugin", **changes) as process:
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
            stopped(process)
    small.node.sysfs.close()


@pytest.mark.parametrize("agent", ["cc-manager", "vfio-manager", "kata-manager", "device-plugin"])
def test_no_arguments_mean_run(agent: str, tmp_path: Path) -> None:
    """Told by what `run` alone minds: a value of one of its variables that is none."""
    with started(agent.replace("-", "_"), f"{SCRIPTS}/{agent}", HOST_ROOT=str(tmp_path), INTERVAL="soon") as process:
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert "'soon' is not a valid float" in said
