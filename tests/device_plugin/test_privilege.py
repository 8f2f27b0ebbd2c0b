"""What the process needs of the machine: no capability, not even to be root, and no file system of its own to write."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.device_plugin.process import process
from tests.device_plugin.small_node import NVSWITCH, PGPU, SmallNode, wait_until
from tests.fakes.kubelet import Kubelet

NOBODY = 65534
STARTS_ITSELF = (
    "import grpc, device_plugin.cli, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
)


def runs(*command: str) -> bool:
    """Whether this machine lets us start something so."""
    try:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(command, capture_output=True, timeout=20, check=False, env=environment).returncode == 0
    except OSError:
        return False


@pytest.fixture
def dropped() -> Sequence[str]:
    """A start without any capability, which is root's usual start in a pod that drops ALL of them."""
    prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs")
    if not runs(*prefix, "true"):
        pytest.skip("setpriv (util-linux) cannot drop capabilities here")
    return prefix


@pytest.fixture
def read_only() -> Sequence[str]:
    """A start in which every file system is read-only but the one in memory that holds the simulated node."""
    remount = 'mount -o remount,bind,ro / && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", remount, "sh")
    if not runs(*prefix, "sh", "-c", "! touch /read-only-or-not"):
        pytest.skip("no mount namespace of our own can be had here")
    return prefix


@pytest.fixture
def node(small: SmallNode) -> SmallNode:
    """Two GPUs and a switch."""
    small.add("0000:3b:00.0", 65)
    small.add("0000:5e:00.0", 66)
    small.add("0000:83:00.0", 70, device="0x22a3", pci_class="0x068000")
    return small


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Apart from the root file system, so that this can be made read-only."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        pytest.skip("there is no file system in memory")
    path = memory / f"dp-{os.getpid()}-{os.urandom(3).hex()}"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def capabilities(pid: int) -> set[str]:
    status = Path(f"/proc/{pid}/status").read_text()
    return {line.split()[1] for line in status.splitlines() if line.startswith(("CapPrm", "CapEff", "CapBnd"))}


def live_through_everything(node: SmallNode, kubelet: Kubelet) -> None:
    """A pod, an illness and its end, a restart of the kubelet."""
    kubelet.wait_until(lambda: (kubelet.allocatable(PGPU), kubelet.allocatable(NVSWITCH)) == (2, 1), 30)
    assert kubelet.admit_pod("tenant", requests={PGPU: 1}).device_specs
    node.unbind("0000:5e:00.0")
    kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1, 30)
    node.bind("0000:5e:00.0", "vfio-pci")
    kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2, 30)
    kubelet.restart()
    kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2, 30)


def test_field_39_root_without_any_capability_is_enough(
    node: SmallNode, kubelet: Kubelet, dropped: Sequence[str]
) -> None:
    with process(node, "--cdi", "write", "--health-interval", "0.5", prefix=dropped) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2, 30)
        assert capabilities(running.pid) == {"0" * 16}
        live_through_everything(node, kubelet)
        running.finish()
    assert (node.root / "var/run/cdi/nvidia.com-pgpu.yaml").exists()


def test_it_need_not_be_root_where_the_kubelets_folder_is_its_own(node: SmallNode, kubelet: Kubelet) -> None:
    """`nobody` may neither open a root's socket to write nor anything else that is root's."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all")
    # A Python below /root is nobody's else; the system's own of the same version takes the same packages.
    pythons = (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    python = next((python for python in pythons if runs(*prefix, python, "-c", STARTS_ITSELF)), None)
    if python is None:
        pytest.skip("another user can run no Python with our packages here")
    os.chown(node.plugins, NOBODY, NOBODY)
    os.chown(kubelet.kubelet_socket, NOBODY, NOBODY)
    with process(node, "--health-interval", "0.5", prefix=prefix, python=python) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2, 30)
        assert f"Uid:\t{NOBODY}\t{NOBODY}" in Path(f"/proc/{running.pid}/status").read_text()
        assert kubelet.admit_pod("tenant", requests={PGPU: 1}).device_specs
        running.finish()


def test_a_read_only_root_file_system_is_enough(
    node: SmallNode, kubelet: Kubelet, dropped: Sequence[str], read_only: Sequence[str]
) -> None:
    with process(node, "--health-interval", "0.5", prefix=[*read_only, *dropped]) as running:
        live_through_everything(node, kubelet)
        assert "Traceback" not in running.finish()


def test_a_folder_that_may_not_be_written_is_said_and_waited_for(
    node: SmallNode, kubelet: Kubelet, dropped: Sequence[str]
) -> None:
    """Root without capabilities is stopped by the modes of files as anybody is."""
    if os.geteuid() != 0:
        pytest.skip("only root can give the folder to somebody else")
    os.chown(node.plugins, NOBODY, NOBODY)
    node.plugins.chmod(0o755)
    with process(node, "--health-interval", "0.5", prefix=dropped) as running:
        node_says = f"{node.plugins} is not writable: mount it writable for this agent"
        wait_until(lambda: node_says in running.said, lambda: running.said)
        os.chown(node.plugins, 0, 0)
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2, 30)
        running.finish()


def test_neither_dev_nor_the_hosts_root_is_needed(small: SmallNode, kubelet: Kubelet) -> None:
    """As a drop-in under a GPU operator: no node file is to be seen, which is no fault of the devices."""
    small.add("0000:3b:00.0", 65)
    (small.root / "dev").mkdir()  # a mount of the host's root without those below it
    with process(small) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1, 30)
        running.finish()
