"""CDI spec files: which are there, which are ours, what they resolve, and the exact bytes that we write.

Folders, file names and precedence: Container Device Interface specification, and containerd's reading of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from nodelib.cdi import CdiSpec
from nodelib.cdi_parse import parse_spec
from nodelib.errors import InvalidValue
from nodelib.files import HostRoot
from nodelib.problem import Problem

STATIC_FOLDER = "/etc/cdi"
DYNAMIC_FOLDER = "/var/run/cdi"
FOLDERS = (STATIC_FOLDER, DYNAMIC_FOLDER)
"""Later ones win where both define a name."""

MARKER = "# managed by cgpu-agents"
"""How a file says that it is ours; CDI has no field for it, and a comment is in nobody's way."""

_SUFFIXES = (".json", ".yaml")


@dataclass(frozen=True, slots=True)
class SpecFile:
    """One file that container runtimes read as a CDI spec."""

    path: Path
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


class SpecReader:
    """Reads CDI folders; a file that did not change since the last time is not parsed again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], SpecFile]] = {}

    def read(self, folder: Path) -> tuple[SpecFile, ...]:
        """The spec files directly in *folder*, by name; none where there is no such folder.

        Raises InvalidValue where the folder is there and cannot be listed.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InvalidValue(f"cannot list the CDI folder {folder} ({error.strerror})") from error
        found = (self._read_file(path) for path in paths)
        return tuple(file for file in found if file is not None)

    def resolve(self, host: HostRoot, folders: Sequence[str] = FOLDERS) -> Resolution:
        """What *folders* of the host, the later ones winning, resolve to."""
        nodes: dict[str, tuple[str, ...]] = {}
        problems: list[Problem] = []
        for folder in folders:
            files = self.read(host.resolve(folder))
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

    def _read_file(self, path: Path) -> SpecFile | None:
        try:
            stat = path.stat()
            identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._known.get(path)
            if known is None or known[0] != identity:
                known = (identity, parse_file(path, path.read_bytes()))
                self._known[path] = known
        except FileNotFoundError:
            return SpecFile(path, b"", None, "a link to nowhere") if path.is_symlink() else None
        except OSError as error:
            if isinstance(error, IsADirectoryError) and not path.is_symlink():
                return None  # runtimes pass over subfolders, whatever their names
            return SpecFile(path, b"", None, f"cannot be read ({error.strerror})")
        return known[1]


def parse_file(path: Path, content: bytes) -> SpecFile:
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


def _broken(file: SpecFile) -> Problem:
    fault = file.fault if str(file.path) in file.fault else f"{file.path}: {file.fault}"
    return Problem("cdi-broken", f"broken CDI spec {fault}", "mend or remove that file: it stops every CDI device")


def _conflict(file: SpecFile, name: str) -> Problem:
    return Problem(
        "cdi-conflict",
        f"{file.path} claims {name}, which another spec in {file.path.parent} claims too",
        "remove one of the two files: neither resolves",
    )
