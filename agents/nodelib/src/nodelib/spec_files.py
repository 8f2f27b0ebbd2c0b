"""CDI spec files: which are ours, what they resolve, and the exact bytes that we write. Pure.

Folders, file names and precedence: Container Device Interface specification, and containerd's reading of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType

import yaml

from nodelib.cdi import CdiSpec
from nodelib.cdi_parse import parse_spec
from nodelib.errors import InvalidValue
from nodelib.problem import Problem

STATIC_FOLDER = "/etc/cdi"
"""CDI specs of administrators: read, never written."""
DYNAMIC_FOLDER = "/var/run/cdi"
"""Generated CDI specs: ours are `nvidia.com-CLASS.yaml`, one a resource."""
FOLDERS = (STATIC_FOLDER, DYNAMIC_FOLDER)
"""Later ones win where both define a name."""

MARKER = "# managed by cgpu-agents"
"""How a file says that it is ours; CDI has no field for it, and a comment is in nobody's way."""

SUFFIXES = (".json", ".yaml")
"""Runtimes read no other file, and no subfolder."""


@dataclass(frozen=True, slots=True)
class SpecFile:
    """One file that container runtimes read as a CDI spec."""

    path: PurePath
    content: bytes
    spec: CdiSpec | None
    """None if it is broken; `fault` says how."""
    fault: str = ""

    @property
    def is_marked(self) -> bool:
        return self.content.startswith(MARKER.encode())

    def is_ours_for(self, kind: str) -> bool:
        """Whether we may replace this file by our spec of *kind*.

        It bears our mark, or it is what another tool of the same purpose left under the same name: our kind, and
        VFIO nodes alone.
        """
        if self.is_marked:
            return True
        return (
            self.spec is not None
            and self.spec.kind == kind
            and all(device.nodes for device in self.spec.devices)
            and all(node.startswith("/dev/vfio/") for device in self.spec.devices for node in device.nodes)
        )


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a container runtime would make of the CDI folders."""

    nodes: Mapping[str, tuple[str, ...]]
    """Every qualified name that resolves, and its device nodes."""
    problems: tuple[Problem, ...]
    """Broken files and conflicts; Kata refuses every pod that needs a CDI device while there is one."""


def spec_file_name(kind: str) -> str:
    """The file of a spec of *kind*, as generated specs are usually named."""
    return f"{kind.replace('/', '-')}.yaml"


def spec_text(spec: CdiSpec) -> bytes:
    """The whole content of the file for *spec*; equal specs give equal bytes."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    body = yaml.dump(spec.as_document(), Dumper=dumper, sort_keys=False, default_flow_style=False)
    return f"{MARKER}: do not edit, it is rewritten\n{body}".encode()


def parse_file(path: PurePath, content: bytes) -> SpecFile:
    """The spec file at *path* with *content*, broken or not."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(content, Loader=loader)  # noqa: S506 - both are the safe loader, one of them in C
        return SpecFile(path, content, parse_spec(document, str(path)))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, for example
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        return SpecFile(path, content, None, f"{path}{where}: neither JSON nor YAML ({problem})")
    except InvalidValue as error:
        return SpecFile(path, content, None, str(error))


def resolve(folders: Iterable[Sequence[SpecFile]]) -> Resolution:
    """What the files of *folders* resolve to, the later folders winning.

    A name that two files of one folder claim resolves to nothing.
    """
    nodes: dict[str, tuple[str, ...]] = {}
    problems: list[Problem] = []
    for files in folders:
        problems += [_broken(file) for file in files if file.spec is None]
        claims = Counter(name for file in files if file.spec for name in file.spec.qualified_names())
        for file in files:
            for device in file.spec.devices if file.spec else ():
                name = f"{file.spec.kind}={device.name}" if file.spec else ""
                if claims[name] == 1:
                    nodes[name] = device.nodes
                else:
                    nodes.pop(name, None)
                    problems.append(_conflict(file, name))
    return Resolution(MappingProxyType(nodes), tuple(problems))


def _broken(file: SpecFile) -> Problem:
    fault = file.fault if str(file.path) in file.fault else f"{file.path}: {file.fault}"
    return Problem("cdi-broken", f"broken CDI spec {fault}", "mend or remove that file: it stops every CDI device")


def _conflict(file: SpecFile, name: str) -> Problem:
    return Problem(
        "cdi-conflict",
        f"{file.path} claims {name}, which another spec in {file.path.parent} claims too",
        "remove one of the two files: neither resolves",
    )
