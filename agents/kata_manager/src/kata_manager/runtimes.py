"""What a container runtime's configuration says, as far as Kata and CDI care; whichever runtime it is. Pure."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

KATA_TYPE = "io.containerd.kata"
"""How containerd's `runtime_type` begins for Kata: io.containerd.kata.v2, io.containerd.kata-qemu.v2."""
GPU_HANDLER = "nvidia-gpu"
"""Part of the names of Kata's handlers for GPUs: kata-qemu-nvidia-gpu, -snp, -tdx."""

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file of a configuration, parsed."""

    path: PurePath
    document: Document


@dataclass(frozen=True, slots=True)
class Handler:
    """One way to run a pod, as a RuntimeClass names it."""

    name: str
    is_kata: bool
    config_path: str = ""
    """Kata's configuration for it; empty: the first that Kata finds in its usual places."""
    privileged_without_host_devices: bool = False
    annotations: tuple[str, ...] = ()
    """The pod annotations that are passed on."""

    @property
    def is_for_gpus(self) -> bool:
        return self.is_kata and GPU_HANDLER in self.name


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What a runtime makes of its configuration."""

    runtime: str
    """`containerd` or `cri-o`."""
    reads_cdi: bool
    spec_dirs: tuple[str, ...]
    handlers: tuple[Handler, ...]


def merged(base: Document, over: Document) -> dict[str, Any]:
    """*base* with what *over* says: tables key by key, everything else replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old or {}, value) if both else copy.deepcopy(value)
    return result


def table(document: Document, *keys: str) -> Document:
    """The table at *keys*; an empty one where there is none, or something else."""
    found: object = document
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def texts(value: object) -> tuple[str, ...]:
    """The texts in a list; none where it is something else."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
