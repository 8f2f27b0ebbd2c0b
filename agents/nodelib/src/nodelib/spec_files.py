"""CDI spec files: which are ours, what they resolve, and the exact bytes that we write. Pure.

Folders, file names and precedence: Container Device Interface specification, and its Go library's cache.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

import yaml

from nodelib.cdi import CdiSpec
from nodelib.cdi_parse import parse_spec
from nodelib.errors import InvalidValue
from nodelib.names import NVIDIA_DOMAIN, is_class
from nodelib.problem import Problem
from nodelib.spec_document import load_document

STATIC_FOLDER = "/etc/cdi"
"""CDI specs of administrators: read, never written."""
DYNAMIC_FOLDER = "/var/run/cdi"
"""Generated CDI specs: ours are `nvidia.com-CLASS.yaml`, one a resource."""
FOLDERS = (STATIC_FOLDER, DYNAMIC_FOLDER)
"""Later ones win where both define a name."""

_VFIO_NODES = "/dev/vfio/"

MARKER = "# managed by cgpu-agents"
"""How a file says that it is ours; CDI has no field for it, and a comment is in nobody's way."""

SUFFIXES = (".json", ".yaml")
"""Runtimes read no other file, and no subfolder."""
MODE = 0o644
"""Everybody may read a spec, whoever made the folder and under whatever umask."""

_OUR_NAME = re.compile(rf"{re.escape(NVIDIA_DOMAIN)}-([^/]+)\.(?:json|yaml)")


class SpecFormat(Enum):
    """How a spec is written; runtimes read both."""

    YAML = "yaml"
    JSON = "json"  # without a comment in it: see SpecFile.is_marked


@dataclass(frozen=True, slots=True)
class SpecFile:
    """One file that container runtimes read as a CDI spec."""

    path: PurePath
    content: bytes
    spec: CdiSpec | None
    """None if it is broken; `fault` says how."""
    fault: str = ""
    mode: int = MODE
    """Its permission bits."""
    is_link: bool = False
    """Whether a link stands there, and what was read is its target."""

    @property
    def is_marked(self) -> bool:
        """Whether we wrote it: under a name of ours, with our mark.

        JSON has no comments, so there the mark is that it is byte for byte what we write for what is in it.
        """
        name = _OUR_NAME.fullmatch(self.path.name)
        if name is None or not is_class(name[1]):
            return False
        if self.content.startswith(b"{"):
            # Parsing lost what nothing of ours has, such as a mount: then these bytes are not those.
            return self.spec is not None and self.content == spec_text(self.spec, SpecFormat.JSON)
        return self.content.startswith(MARKER.encode())

    @property
    def is_named_for_its_kind(self) -> bool:
        """Whether it is no copy that somebody put aside under another name; what is broken cannot tell."""
        return self.spec is None or self.path.name in {spec_file_name(self.spec.kind, form) for form in SpecFormat}

    def is_left_by_another(self, kinds: Collection[str]) -> bool:
        """Whether another tool of the same purpose left it: our file name, one of our *kinds*, VFIO nodes alone."""
        if self.spec is None or self.spec.kind not in kinds or self.is_marked:
            return False
        return self.is_named_for_its_kind and _is_all_vfio(self.spec)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a container runtime would make of the CDI folders."""

    nodes: Mapping[str, tuple[str, ...]]
    """Every qualified name that resolves, and its device nodes."""
    problems: tuple[Problem, ...]
    """Broken files and conflicts; Kata refuses every pod that needs a CDI device while there is one."""
    files: Mapping[str, SpecFile] = field(default_factory=lambda: MappingProxyType({}))
    """Where each of these names comes from."""


def spec_file_name(kind: str, form: SpecFormat = SpecFormat.YAML) -> str:
    """The file of a spec of *kind*, as generated specs are usually named."""
    return f"{kind.replace('/', '-')}.{form.value}"


@functools.lru_cache(maxsize=8)  # a quiet round of a large node asks again for what it asked before
def spec_text(spec: CdiSpec, form: SpecFormat = SpecFormat.YAML) -> bytes:
    """The whole content of the file for *spec*; equal specs give equal bytes."""
    if form is SpecFormat.JSON:
        return f"{json.dumps(spec.as_document(), indent=2)}\n".encode()
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    body = yaml.dump(spec.as_document(), Dumper=dumper, sort_keys=False, default_flow_style=False)
    return f"{MARKER}: do not edit, it is rewritten\n{body}".encode()


def parse_file(path: PurePath, content: bytes, mode: int = MODE, *, is_link: bool = False) -> SpecFile:
    """The spec file at *path* with *content*, broken or not."""
    spec, fault = None, ""
    try:
        document = load_document(content)
    except InvalidValue as error:
        fault = f"{path}: {error}"
    else:
        try:
            spec = parse_spec(document, str(path))
        except InvalidValue as error:
            fault = str(error)
    return SpecFile(path, content, spec, fault, mode, is_link)


def document_of(file: SpecFile) -> dict[str, Any]:
    """Everything that *file* holds. Raises InvalidValue if that is no mapping, as a spec's is."""
    document = load_document(file.content)
    if not isinstance(document, dict):
        raise InvalidValue(f"{file.path}: this is not a mapping")
    return document


def resolve(folders: Iterable[Sequence[SpecFile]]) -> Resolution:
    """What the files of *folders* resolve to, the later folders winning.

    A name that two files of one folder claim resolves to nothing, even where a later folder has it once: seen with
    podman 4.3, whose CDI library drops whatever was in conflict anywhere.
    """
    nodes: dict[str, tuple[str, ...]] = {}
    sources: dict[str, SpecFile] = {}
    problems: list[Problem] = []
    doubled: set[str] = set()
    for files in folders:
        problems += [_broken(file) for file in files if file.spec is None]
        claims = Counter(name for file in files if file.spec for name in file.spec.qualified_names())
        doubled |= {name for name, count in claims.items() if count > 1}
        for file in files:
            for device in file.spec.devices if file.spec else ():
                name = f"{file.spec.kind}={device.name}" if file.spec else ""
                if _is_rivalry(nodes.get(name), device.nodes) and sources[name].path.parent != file.path.parent:
                    problems.append(_rivalry(sources[name], file, name))
                nodes[name], sources[name] = device.nodes, file
                if claims[name] > 1:
                    problems.append(_conflict(file, name))
    for name in doubled:
        del nodes[name], sources[name]
    return Resolution(MappingProxyType(nodes), tuple(problems), MappingProxyType(sources))


def _is_rivalry(earlier: tuple[str, ...] | None, later: tuple[str, ...]) -> bool:
    """Whether a name stands for other VFIO nodes in another folder, for which the runtimes have different orders."""
    if earlier is None or set(earlier) == set(later):
        return False
    return any(node.startswith(_VFIO_NODES) for node in (*earlier, *later))


def _rivalry(earlier: SpecFile, later: SpecFile, name: str) -> Problem:
    return Problem(
        "cdi-conflict",
        f"{earlier.path} and {later.path} name other device nodes for {name}: "
        "Kata's Go runtime takes the latter's, its Rust runtime the former's",
        "remove the file that is not kata-manager's",
    )


def _is_all_vfio(spec: CdiSpec) -> bool:
    """Whether it gives VFIO device nodes and nothing else."""
    return spec.is_of_nodes_alone and all(
        device.nodes and all(node.startswith(_VFIO_NODES) for node in device.nodes) for device in spec.devices
    )


def _broken(file: SpecFile) -> Problem:
    fault = file.fault if str(file.path) in file.fault else f"{file.path}: {file.fault}"
    return Problem("cdi-broken", f"broken CDI spec {fault}", "mend or remove that file: it stops every CDI device")


def _conflict(file: SpecFile, name: str) -> Problem:
    return Problem(
        "cdi-conflict",
        f"{file.path} claims {name}, which another spec in {file.path.parent} claims too",
        "remove one of the two files: neither resolves",
    )
