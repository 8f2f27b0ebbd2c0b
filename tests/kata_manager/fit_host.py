"""A host on which pods can be given GPUs: containerd, Kata and the kubelet as the tests of `doctor` begin with them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.kernel import FakeKernel
from tests.fakes.kubelet import Kubelet
from tests.kata_manager.builders import write

CONTAINERD = "etc/containerd/config.toml"
KATA = "opt/kata/share/defaults/kata-containers/configuration-qemu-nvidia-gpu.toml"
CRIO = "etc/crio/crio.conf"

CONTAINERD_2 = """\
version = 2
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins."io.containerd.grpc.v1.cri"]
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu-nvidia-gpu]
    runtime_type = "io.containerd.kata-qemu-nvidia-gpu.v2"
    privileged_without_host_devices = true
    pod_annotations = ["io.katacontainers.*"]
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu-nvidia-gpu.options]
      ConfigPath = "/opt/kata/share/defaults/kata-containers/configuration-qemu-nvidia-gpu.toml"
"""
CONTAINERD_3 = CONTAINERD_2.replace("version = 2", "version = 3").replace(
    "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
)
CRIO_TEXT = """\
[crio.runtime]
cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]
[crio.runtime.runtimes.crun]
runtime_path = "/usr/bin/crun"
[crio.runtime.runtimes.kata-qemu-nvidia-gpu]
runtime_path = "/opt/kata/bin/containerd-shim-kata-v2"
runtime_type = "vm"
runtime_config_path = "/opt/kata/share/defaults/kata-containers/configuration-qemu-nvidia-gpu.toml"
privileged_without_host_devices = true
"""
KATA_TEXT = """\
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-x86_64"
kernel = "/opt/kata/share/kata-containers/vmlinuz-nvidia-gpu.container"
image = "/opt/kata/share/kata-containers/kata-containers-nvidia-gpu.img"
firmware = ""
machine_type = "q35"
cold_plug_vfio = "root-port"
[agent.kata]
[runtime]
pod_resource_api_sock = "/var/lib/kubelet/pod-resources/kubelet.sock"
"""
HYPERVISOR_FILES = (
    "opt/kata/bin/qemu-system-x86_64",
    "opt/kata/share/kata-containers/vmlinuz-nvidia-gpu.container",
    "opt/kata/share/kata-containers/kata-containers-nvidia-gpu.img",
)


def put_file(kernel: FakeKernel, path: str, content: str) -> Path:
    """A file of the host, whatever was there before."""
    place = kernel.host.root / path
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)
    return place


def make_fit(kernel: FakeKernel) -> None:
    """Everything but the kubelet."""
    write(kernel)
    put_file(kernel, CONTAINERD, CONTAINERD_2)
    put_file(kernel, KATA, KATA_TEXT)
    for path in HYPERVISOR_FILES:
        put_file(kernel, path, "")


@contextmanager
def kubelet_of(kernel: FakeKernel) -> Iterator[Kubelet]:
    """The node's kubelet, running."""
    folder = kernel.host.root / "var/lib/kubelet"
    with Kubelet(folder / "device-plugins", folder / "pod-resources") as kubelet:
        yield kubelet
