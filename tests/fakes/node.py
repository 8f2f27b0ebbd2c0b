"""A whole simulated node: kernel, GPUs with firmware, kubelet and API server, behind the doors that agents use."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from cc_manager.gpu.bar0 import MapError, Words
from nodelib.nvidia import is_assignable_kind
from nodelib.pci import PciAddress, PciDevice
from tests.fakes.gpu import EmulatedDevice, chip_behind
from tests.fakes.kube.api import KubeApi
from tests.fakes.kubelet import Kubelet
from tests.fakes.topologies import build

NODE_NAME = "node-1"


class SimulatedNode:
    """The node *topology*, below *root*; what agents need of it is `node`, `map_words` and `kubeconfig`."""

    def __init__(
        self,
        topology: str,
        root: Path,
        *,
        labels: dict[str, str] | None = None,
        make_device: Callable[[PciDevice], EmulatedDevice | None] | None = None,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self.kernel = self._stack.enter_context(build(topology, root / "host"))
        self.node = self.kernel.node()
        self.devices: dict[PciAddress, EmulatedDevice] = {}
        self._attach(make_device or emulate)
        plugins = root / "host/var/lib/kubelet/device-plugins"
        resources = root / "host/var/lib/kubelet/pod-resources"
        self.kubelet = self._stack.enter_context(Kubelet(plugins, resources))
        self.api = self._stack.enter_context(KubeApi(NODE_NAME, labels or {}))
        self.kubeconfig = root / "kubeconfig"
        self.kubeconfig.write_text(_kubeconfig(self.api))

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def map_words(self, path: Path) -> Iterator[Words]:
        """What mapping `resource0` gives here; the kernel's refusals come as they come from mmap."""
        opened = self.kernel.open_bar0(path)
        try:
            words = opened.map()
        except OSError as error:
            raise MapError(error.errno, error.strerror, str(path)) from error
        yield words

    def _attach(self, make_device: Callable[[PciDevice], EmulatedDevice | None]) -> None:
        for device in self.node.scan().devices:
            if is_assignable_kind(device) and (emulated := make_device(device)) is not None:
                self.devices[device.address] = emulated
                self.kernel.attach(device.address, emulated)


def emulate(device: PciDevice) -> EmulatedDevice | None:
    """The emulated device behind *device*; None for a chip that is not emulated."""
    chip = chip_behind(device.device, device.pci_class)
    return None if chip is None else EmulatedDevice(chip)


def _kubeconfig(api: KubeApi) -> str:
    return f"""apiVersion: v1
kind: Config
current-context: simulated
contexts:
- name: simulated
  context: {{cluster: simulated, user: agent}}
clusters:
- name: simulated
  cluster: {{server: "{api.url}"}}
users:
- name: agent
  user: {{token: "{api.token}"}}
"""
