"""`resolve`: what the container runtimes would inject for a CDI name, and from which file."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nodelib.errors import InvalidValue
from nodelib.names import is_class, is_device_name, is_vendor
from nodelib.output import Record, Report
from nodelib.spec_files import Resolution, SpecFile, document_of, resolve

COLUMNS = {"name": "CDI NAME", "runtime": "RUNTIME", "nodes": "DEVICE NODES", "file": "FILE"}
ALL = "all"
GO = "go"
"""Kata's Go runtime, containerd, CRI-O and podman: the later folder wins."""
RUST = "rust"
"""Kata's Rust runtime: the earlier folder wins."""


def check_name(name: str) -> str:
    """*name* if it can name a CDI device. Raises InvalidValue."""
    kind, equals, device = name.partition("=")
    vendor, slash, class_ = kind.partition("/")
    if not (equals and slash and is_vendor(vendor) and is_class(class_, dots=True) and is_device_name(device)):
        raise InvalidValue(f"{name!r} is no CDI name: write vendor/class=name, as in nvidia.com/pgpu=65")
    return name


def resolve_names(names: Iterable[str], folders: Sequence[Sequence[SpecFile]]) -> tuple[Report, bool]:
    """What each of *names* stands for, a row for each answer that the runtimes give; and whether all resolve.

    *folders* are in the order of the Go library, the later ones winning.
    """
    by_runtime = {GO: resolve(folders), RUST: resolve(folders[::-1])}
    rows: list[Record] = []
    notes: list[str] = []
    for name in names:
        found = [_row(name, runtime, resolution) for runtime, resolution in by_runtime.items()]
        if found[0] | {"runtime": ""} == found[1] | {"runtime": ""}:
            found = [found[0] | {"runtime": ALL}]
        else:
            notes.append(f"{name}: Go runtimes take it from the later folder, Kata's Rust runtime from the earlier one")
        rows += found
        if name not in by_runtime[GO].nodes:
            notes.append(f"{name} does not resolve: {_why(name, folders, by_runtime[GO])}")
    notes += [str(problem) for problem in by_runtime[GO].problems]
    is_whole = all(name in resolution.nodes for name in names for resolution in by_runtime.values())
    return Report(tuple(rows), COLUMNS, tuple(dict.fromkeys(notes))), is_whole


def edits_of(name: str, file: SpecFile) -> dict[str, Any]:
    """All that a runtime changes in a container that is given *name*: the edits for all devices, then its own."""
    document = document_of(file)
    wanted = name.partition("=")[2]
    device = next(entry for entry in document["devices"] if str(entry["name"]) == wanted)
    merged: dict[str, Any] = {}
    for edits in (document.get("containerEdits") or {}, device["containerEdits"]):
        for field, value in edits.items():
            if isinstance(value, list):
                merged[field] = merged.get(field, []) + copy.deepcopy(value)
            elif value:
                merged[field] = copy.deepcopy(value)
    return merged


def _row(name: str, runtime: str, resolution: Resolution) -> dict[str, object]:
    file = resolution.files.get(name)
    edits = edits_of(name, file) if file else {}
    return {
        "name": name,
        "runtime": runtime,
        "nodes": [str(node.get("hostPath") or node["path"]) for node in edits.get("deviceNodes", ())],
        "file": str(file.path) if file else None,
        "edits": edits,
    }


def _why(name: str, folders: Sequence[Sequence[SpecFile]], resolution: Resolution) -> str:
    """Why *name* does not resolve: in conflict, or unknown, with what there is of its kind."""
    files = [file for of_one in folders for file in of_one]
    if claims := [str(file.path) for file in files if file.spec and name in file.spec.qualified_names()]:
        return f"{' and '.join(claims)} all claim it; remove all but one"
    if near := sorted(_of_kind(name.partition("=")[0], resolution)):
        return f"of that kind there are {', '.join(near[:12])}{' and more' if len(near) > 12 else ''}"
    broken = [str(file.path) for file in files if file.spec is None]
    return f"no spec has that kind{f'; {broken[0]} is broken and may have it' if broken else ''}"


def _of_kind(kind: str, resolution: Resolution) -> Iterator[str]:
    for name in resolution.nodes:
        if name.partition("=")[0] == kind:
            yield name.partition("=")[2]
