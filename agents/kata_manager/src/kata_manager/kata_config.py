"""Kata's own configuration, as far as GPUs and CDI depend on it. Pure.

Keys: kata-containers, src/runtime/config/configuration-qemu-nvidia-gpu.toml.in and docs/how-to (drop-ins).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kata_manager.runtimes import ConfigFile, merged, table

USUAL_PLACES = (
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
)
"""Where Kata looks if its handler names no file."""
_FILES = ("path", "kernel", "image", "initrd", "firmware", "firmware_volume", "virtio_fs_daemon", "jailer_path")
_COLD_PORTS = ("root-port", "switch-port", "bridge-port")


@dataclass(frozen=True, slots=True)
class KataConfig:
    """What a handler's configuration comes to."""

    path: str
    hypervisor: str
    """The name of its table: qemu."""
    cold_plug_vfio: str
    pod_resource_api_sock: str
    files: tuple[tuple[str, str], ...]
    """The files that a VM starts from, by their keys."""

    @property
    def cold_plugs(self) -> bool:
        """Whether devices are plugged at the VM's creation, as confidential VMs need it."""
        return self.cold_plug_vfio in _COLD_PORTS


def read_kata(files: Sequence[ConfigFile]) -> KataConfig:
    """What Kata makes of *files*, its configuration first and its drop-ins after it; at least one."""
    document: dict[str, Any] = {}
    for file in files:
        document = merged(document, file.document)
    hypervisors = table(document, "hypervisor")
    name = next(iter(sorted(hypervisors)), "")
    hypervisor = table(hypervisors, name)
    return KataConfig(
        str(files[0].path),
        name,
        str(hypervisor.get("cold_plug_vfio", "no-port")),
        str(table(document, "runtime").get("pod_resource_api_sock", "")),
        tuple(_files(hypervisor)),
    )


def _files(hypervisor: Any) -> Iterator[tuple[str, str]]:
    for key in _FILES:
        value = hypervisor.get(key)
        if isinstance(value, str) and value.startswith("/"):
            yield key, value
