"""How CRI-O reads its configuration: the file, then every drop-in by name. Pure. crio.conf(5), crio.conf.d(5)."""

from collections.abc import Iterable, Sequence
from typing import Any

from kata_manager.runtimes import ConfigFile, Handler, RuntimeConfig, merged, table, texts
from nodelib.spec_files import FOLDERS

_VM = "vm"
"""The `runtime_type` of a runtime that speaks containerd's shim protocol: Kata."""


def read(files: Sequence[ConfigFile]) -> RuntimeConfig:
    """What CRI-O makes of *files*, the main one first. It always reads CDI specs."""
    document: dict[str, Any] = {}
    for file in files:
        document = merged(document, file.document)
    runtime = table(document, "crio", "runtime")
    return RuntimeConfig("cri-o", True, texts(runtime.get("cdi_spec_dirs")) or FOLDERS, tuple(_handlers(runtime)))


def _handlers(runtime: dict[str, Any] | Any) -> Iterable[Handler]:
    runtimes = table(runtime, "runtimes")
    for name in sorted(runtimes):
        one = table(runtimes, name)
        yield Handler(
            name,
            one.get("runtime_type") == _VM and "kata" in f"{name} {one.get('runtime_path', '')}",
            str(one.get("runtime_config_path", "")),
            bool(one.get("privileged_without_host_devices")),
            texts(one.get("allowed_annotations")),
        )
