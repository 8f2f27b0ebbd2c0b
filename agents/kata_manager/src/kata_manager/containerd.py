"""How containerd 1 and 2 read their configuration: imports, what replaces what, and the tables of both formats. Pure.

Seen with `containerd config dump` of 1.7.24 and 2.1.9; tests/kata_manager/test_containerd.py asks the installed one.
In 1.x a plugin's whole table in a later file replaces that of an earlier one; 2.x merges them key by key.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from kata_manager.runtimes import KATA_TYPE, ConfigFile, Document, Handler, RuntimeConfig, merged, table, texts
from nodelib.errors import InvalidValue
from nodelib.spec_files import FOLDERS

OLD_PLUGIN = "io.containerd.grpc.v1.cri"
"""Of configuration version 2."""
NEW_PLUGIN = "io.containerd.cri.v1.runtime"
"""Of configuration version 3, which only containerd 2 reads."""


def imports_of(file: ConfigFile) -> tuple[str, ...]:
    """The paths and patterns that *file* imports, those that are not absolute from its own folder."""
    folder = file.path.parent
    return tuple(str(folder / pattern) for pattern in texts(file.document.get("imports")))


def major_of(version: str) -> int | None:
    """The major number in what containerd says of itself: `1.7.24~ds1` is 1, `v2.1.4` is 2."""
    number = version.removeprefix("v").partition(".")[0]
    return int(number) if number.isdecimal() else None


def read_as(major: int, files: Sequence[ConfigFile]) -> RuntimeConfig:
    """What containerd *major* makes of *files*, the main one first and each import after the file that names it.

    Raises InvalidValue if that containerd would not start with them.
    """
    document = _as_one(files) if major < 2 else _as_two(files)
    section = _section(major, document)
    return RuntimeConfig(
        "containerd",
        bool(section.get("enable_cdi", major >= 2)),
        texts(section.get("cdi_spec_dirs")) or FOLDERS,
        tuple(_handlers(table(section, "containerd", "runtimes"))),
    )


def _as_one(files: Iterable[ConfigFile]) -> dict[str, Any]:
    """Whole tables of plugins replace each other; the version is the one that was said last."""
    document: dict[str, Any] = {"plugins": {}}
    for file in files:
        document["plugins"] |= table(file.document, "plugins")
        if version := file.document.get("version"):
            document |= {"version": version, "said in": file.path}
    if _version(document) > 2:
        raise InvalidValue(f"{document['said in']} is of version {document['version']}, which needs containerd 2")
    return document


def _as_two(files: Iterable[ConfigFile]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for file in files:
        document = merged(document, file.document)
    return document


def _section(major: int, document: Document) -> Document:
    plugins = table(document, "plugins")
    version = _version(document)
    if version < 2:  # the names of its sections were short
        return table(plugins, "cri")
    if major >= 2 and (version > 2 or NEW_PLUGIN in plugins):
        return table(plugins, NEW_PLUGIN)
    return table(plugins, OLD_PLUGIN)


def _version(document: Document) -> int:
    version = document.get("version", 1)
    return version if isinstance(version, int) else 1


def _handlers(runtimes: Document) -> Iterable[Handler]:
    for name in sorted(runtimes):
        runtime = table(runtimes, name)
        yield Handler(
            name,
            str(runtime.get("runtime_type", "")).startswith(KATA_TYPE),
            str(table(runtime, "options").get("ConfigPath", "")),
            bool(runtime.get("privileged_without_host_devices")),
            texts(runtime.get("pod_annotations")),
        )
