"""Our images in the place of an existing GPU operator's: its commands, environment, mounts and rights, nothing else."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cc_manager.cluster import labels
from kata_manager.pid_file import NAME as PID_FILE
from tests.bench.secure_api import secured
from tests.device_plugin.small_node import PGPU
from tests.fakes.kernel import FakeKernel
from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.roles import UNDER_OPERATOR_ROLE
from tests.fakes.kubelet import Kubelet
from tests.fakes.parts import gpu
from tests.fakes.polling import DEADLINE_S, until
from tests.images.built.container import Image
from tests.images.manifests import EXISTING
from tests.kata_manager.builders import TWO_GPUS

pytestmark = pytest.mark.timeout(600)  # a build may take its time

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the API server's certificate")
def test_cc_manager_with_sys_and_run_nvidia_alone_and_few_rights_says_what_is_in_the_way(
    image: Callable[[str], Image], tmp_path: Path
) -> None:
    """A GPU on the driver nvidia: nothing is touched, the label says `failed`, the annotation why.

    Those manifests leave the container's root writable, where its lock is then.
    """
    existing, built = EXISTING["cc_manager"], image("cc_manager")
    run, account = tmp_path / "run", tmp_path / "account"
    (run / "validations").mkdir(parents=True)
    account.mkdir()
    ready_file = run / "validations/.cc-manager-ctr-ready"
    with FakeKernel(tmp_path / "host") as kernel, KubeApi(existing.environment["NODE_NAME"]) as api:
        kernel.add_device(gpu("0000:3b:00.0", group=65), driver="nvidia")
        api.allow = set(UNDER_OPERATOR_ROLE)
        volumes = {kernel.host.root / "sys": "/sys", run: "/run/nvidia", account: SERVICE_ACCOUNT}
        with secured(api, account) as (url, *_):
            address = urlsplit(url)
            environment = {
                **existing.environment,
                "KUBERNETES_SERVICE_HOST": str(address.hostname),
                "KUBERNETES_SERVICE_PORT": str(address.port),
            }
            with built.started(*built.entry_point, volumes=volumes, environment=environment, root_is="rw") as process:
                api.wait_until(lambda: api.labels.get(labels.STATE) == "failed", DEADLINE_S)
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=DEADLINE_S)
        assert "bind it first: vfio-manager bind" in api.annotations[labels.MESSAGE]
        assert kernel.writes == []
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert not ready_file.exists()
    ready_file.touch()
    assert built.run(*existing.pre_stop, volumes={run: "/run/nvidia"}).returncode == 0
    assert not ready_file.exists()


def test_vfio_manager_with_the_host_at_host_binds_and_then_its_shell_sleeps(
    image: Callable[[str], Image], host: FakeKernel
) -> None:
    existing, built = EXISTING["vfio_manager"], image("vfio_manager")
    root = host.host.root
    volumes = {root / "sys": "/sys", root: "/host"}
    with built.started(*existing.command, volumes=volumes, environment=existing.environment) as process:
        assert process.stdout is not None
        said = list(iter(process.stdout.readline, "every chosen function is on its VFIO driver\n"))
        assert process.poll() is None, said
        # The shell and its sleep hold the pipe until they are gone.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: bool(children.read_text()))
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGTERM)


def test_vfio_managers_pre_stop_is_done_where_nothing_is_bound(image: Callable[[str], Image], tmp_path: Path) -> None:
    existing, built = EXISTING["vfio_manager"], image("vfio_manager")
    with FakeKernel(tmp_path / "host") as kernel:
        kernel.add_device(gpu("0000:3b:00.0", group=65), driver=None)
        done = built.run(*existing.pre_stop, volumes={kernel.host.root: "/host"}, environment=existing.environment)
    assert done.returncode == 0, done.stderr


def test_kata_managers_entry_point_writes_specs_and_its_pid(
    image: Callable[[str], Image], host: FakeKernel, tmp_path: Path
) -> None:
    existing, built = EXISTING["kata_manager"], image("kata_manager")
    artifacts, specs = tmp_path / "artifacts", tmp_path / "cdi"
    artifacts.mkdir()
    specs.mkdir()
    folder = existing.environment["KATA_ARTIFACTS_DIR"]
    volumes = {host.host.root / "sys": "/sys", specs: "/var/run/cdi", artifacts: folder}
    with built.started(*existing.command, volumes=volumes, environment=existing.environment) as process:
        until(lambda: process.poll() is not None or (specs / "nvidia.com-pgpu.yaml").exists())
        assert process.poll() is None, process.communicate()
        # What the readiness probe of those manifests comes to: is there such a process?
        daemon = int((artifacts / PID_FILE).read_text())
        assert b"k8s-kata-manager" in Path(f"/proc/{daemon}/cmdline").read_bytes()
        os.kill(daemon, signal.SIGTERM)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert (specs / "nvidia.com-pgpu.yaml").read_text() == TWO_GPUS
    assert not (artifacts / PID_FILE).exists()


def test_the_device_plugin_with_plugin_and_cdi_folders_alone_advertises_gpus_whose_nodes_it_cannot_see(
    image: Callable[[str], Image], host: FakeKernel, short_path: Path
) -> None:
    """Nodes made after the container's start may be invisible in it: a missing one is unknown, not unhealthy."""
    existing, built = EXISTING["device_plugin"], image("device_plugin")
    plugins, specs = short_path / "plugins", short_path / "cdi"
    specs.mkdir()
    with Kubelet(plugins, short_path / "pods") as kubelet:
        volumes = {
            host.host.root / "sys": "/sys",
            plugins: "/var/lib/kubelet/device-plugins",
            specs: "/var/run/cdi",
        }
        for name in ("device-plugin", "nvidia-sandbox-device-plugin"):
            with built.started(name, volumes=volumes, environment=existing.environment) as process:
                kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, said
            assert "Traceback" not in said
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 0)
    assert (specs / "nvidia.com-pgpu.yaml").read_text() == TWO_GPUS
