"""What can be wrong with CDI spec files, of whatever vendor, as far as the files themselves tell. Pure."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from nodelib.cdi_parse import VERSIONS, lowest_version
from nodelib.spec_files import SUFFIXES, SpecFile, document_of

KATA_GO_VERSION = "0.6.0"
"""The newest that Kata's Go runtime reads: it uses release 0.6.0 of the CDI library."""
_NOT_DEVICES = ("/dev/vfio/vfio", "/dev/iommu")
"""What VFIO's users open beside their devices; Kata would take either for a device."""


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"  # a runtime refuses the file, or a container with the device
    WARNING = "warning"  # not for every runtime, or not yet


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with the file or folder at *path*."""

    code: str
    """Short and stable, for scripts: `duplicate-name`."""
    severity: Severity
    path: PurePath
    text: str
    """One clause, with the place in the file."""
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity.value} {self.path}: {self.text}; {self.remedy}"


def error(code: str, path: PurePath, text: str, remedy: str) -> Finding:
    return Finding(code, Severity.ERROR, path, text, remedy)


def warning(code: str, path: PurePath, text: str, remedy: str) -> Finding:
    return Finding(code, Severity.WARNING, path, text, remedy)


def of_file(file: SpecFile) -> Iterator[Finding]:
    """What *file* alone shows, its device nodes not looked for."""
    if file.is_link and file.spec is not None:
        yield warning(
            "link", file.path, "it is a link", "put the file itself there: its target may go or change unseen"
        )
    if file.path.suffix not in SUFFIXES:
        yield warning("unread-name", file.path, "no runtime reads it", "let its name end in .yaml or .json")
    yield from _of_mode(file.path, file.mode)
    if file.spec is None:
        text = file.fault.removeprefix(f"{file.path}: ")
        yield error("broken", file.path, text, "mend or remove it: Kata refuses every CDI device while it is there")
        return
    if file.path.suffix == ".json" and not _is_json(file.content):
        yield warning(
            "not-json", file.path, "it is YAML in a .json file", "name it .yaml: not every runtime reads that"
        )
    yield from _of_version(file, document_of(file))
    yield from _of_vfio(file)


def of_folder(path: PurePath, mode: int) -> Iterator[Finding]:
    """*mode* are the permission bits of the folder at *path*."""
    if mode & 0o022 and not mode & 0o1000:
        yield error("folder-mode", path, f"not only its owner may write to it ({mode:04o})", f"run: chmod 755 {path}")
    elif mode & 0o055 != 0o055:
        yield warning("folder-mode", path, f"not everybody may read it ({mode:04o})", f"run: chmod 755 {path}")


def of_several(folders: Iterable[Sequence[SpecFile]]) -> Iterator[Finding]:
    """Names that several files claim: of one folder, where none resolves, or of several, where the last one wins."""
    claimed: dict[str, list[tuple[int, SpecFile]]] = {}
    for number, files in enumerate(folders):
        for file in files:
            for name in file.spec.qualified_names() if file.spec else ():
                claimed.setdefault(name, []).append((number, file))
    clashes: Counter[tuple[PurePath, PurePath, bool]] = Counter()
    first: dict[tuple[PurePath, PurePath, bool], str] = {}
    for name, claims in claimed.items():
        for (number, file), (later, other) in itertools.pairwise(claims):
            pair = (file.path, other.path, number == later)
            clashes[pair] += 1
            first.setdefault(pair, name)
    for (path, other_path, is_same_folder), count in clashes.items():
        name = first[path, other_path, is_same_folder]
        names = name if count == 1 else f"{name} and {count - 1} more"
        if is_same_folder:
            remedy = "remove one of the two: neither resolves, and Kata refuses every CDI device"
            yield error("duplicate-name", other_path, f"it claims {names}, as {path} does", remedy)
        else:
            remedy = (
                "remove one of the two: Kata's Go and Rust runtimes and containerd do not agree on which one counts"
            )
            yield warning("shadowed-name", other_path, f"it claims {names}, as {path} does", remedy)


def _of_mode(path: PurePath, mode: int) -> Iterator[Finding]:
    if mode & 0o022:
        text = f"not only its owner may write it ({mode:04o})"
        yield error("file-mode", path, text, f"run: chmod 644 {path}; a device node in it is root's to give")
    elif mode & 0o044 != 0o044:
        yield warning("file-mode", path, f"not everybody may read it ({mode:04o})", f"run: chmod 644 {path}")


def _of_version(file: SpecFile, document: Mapping[str, Any]) -> Iterator[Finding]:
    lowest = lowest_version(document)
    if file.spec is None or lowest is None:
        return
    if _is_newer(file.spec.version, KATA_GO_VERSION):
        text = f"cdiVersion {file.spec.version} is above {KATA_GO_VERSION}, the newest that Kata's Go runtime reads"
        mends = not _is_newer(lowest, KATA_GO_VERSION)
        remedy = f"write {lowest}, which is enough for what is in it" if mends else f"do without what needs {lowest}"
        yield warning("new-version", file.path, text, remedy)
    for index, entry in enumerate(document["devices"]):
        if not isinstance(entry["name"], str):
            text = f"devices[{index}]: the name {entry['name']} is a number"
            yield warning("bare-name", file.path, text, f"write it in quotes: '{entry['name']}'")


def _of_vfio(file: SpecFile) -> Iterator[Finding]:
    """What Kata needs of VFIO nodes: each one that is listed is plugged as a device of its own."""
    for device in file.spec.devices if file.spec else ():
        cdevs = [node for node in device.nodes if node.startswith("/dev/vfio/devices/")]
        groups = [n for n in device.nodes if n.startswith("/dev/vfio/") and n not in (*cdevs, *_NOT_DEVICES)]
        for node in device.nodes if cdevs or groups else ():
            if node in _NOT_DEVICES:
                text = f"{device.name}: Kata would take {node} for a device"
                yield error("not-a-device", file.path, text, "take it out of the spec")
        if cdevs and groups:
            text = f"{device.name}: both {groups[0]} and {cdevs[0]} are listed, so Kata plugs the device twice"
            yield error("both-interfaces", file.path, text, "list the one or the other")


def _is_newer(version: str, than: str) -> bool:
    return VERSIONS.index(version) > VERSIONS.index(than)


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
