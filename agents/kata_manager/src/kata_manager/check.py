"""`check`: everything that is wrong with the spec files of folders, or with single files, of whatever vendor."""

import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kata_manager.findings import Finding, Severity, of_file, of_folder, of_several, warning
from kata_manager.host_nodes import missing_on_host
from nodelib.errors import NodeError
from nodelib.files import TEMPORARY_SUFFIX
from nodelib.node import Node
from nodelib.output import Report
from nodelib.spec_files import SpecFile
from nodelib.spec_folder import SpecReader

COLUMNS = {"result": "RESULT", "file": "FILE", "kind": "KIND", "names": "NAMES"}
_ABANDONED_S = 60.0


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what was found."""

    files: tuple[SpecFile, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    @property
    def has_errors(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def check(node: Node, given: Sequence[str], usual: Iterable[str]) -> Checked:
    """Check the files and folders *given*, or the *usual* folders, which need not be there.

    A path from the root is the host's; any other lies in the working folder. Raises NodeError for one that is not
    there.
    """
    reader = SpecReader(node.host)
    findings: list[Finding] = []
    folders: dict[Path, list[SpecFile]] = {}
    for text in given or usual:
        path = _place(node, text)
        if path.is_dir():
            findings += _of_folder(path)
            folders.setdefault(path, []).extend(reader.read(path))
        elif file := reader.read_file(path):
            folders.setdefault(path.parent, []).append(file)
        elif given:
            raise NodeError(f"there is no {path}; --host-root is {node.host.root}")
    # A file that was given twice is one.
    by_folder = [tuple({file.path: file for file in of_one}.values()) for of_one in folders.values()]
    files = tuple(file for of_one in by_folder for file in of_one)
    for file in files:
        findings += of_file(file)
        findings += missing_on_host(node, file)
    findings += of_several(by_folder)
    return Checked(files, tuple(sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)))


def report(checked: Checked) -> Report:
    """A row for each file and each folder that something is said of; below them each finding with its remedy."""
    found: dict[str, list[Finding]] = {str(file.path): [] for file in checked.files}
    for finding in checked.findings:
        found.setdefault(str(finding.path), []).append(finding)
    specs = {str(file.path): file.spec for file in checked.files}
    rows = []
    for path, findings in found.items():
        spec = specs.get(path)
        rows.append(
            {
                "result": _result(findings),
                "file": path,
                "kind": spec.kind if spec else None,
                "names": len(spec.devices) if spec else None,
                "findings": [
                    {"severity": f.severity.value, "code": f.code, "text": f.text, "remedy": f.remedy} for f in findings
                ],
            }
        )
    return Report(tuple(rows), COLUMNS, tuple(map(str, checked.findings)), empty="there is no CDI spec")


def _result(findings: Sequence[Finding]) -> str:
    if not findings:
        return "ok"
    is_error = any(finding.severity is Severity.ERROR for finding in findings)
    return "error" if is_error else "warning"


def _place(node: Node, text: str) -> Path:
    """The folder of *text* with its links followed, and the last part as it is: whether that is a link matters."""
    if not text.startswith("/"):
        return Path.cwd() / text
    parent, _, name = text.rstrip("/").rpartition("/")
    place = node.host.resolve(parent or "/") / name
    return node.host.resolve(text) if node.host.resolve(text).is_dir() else place


def _of_folder(path: Path) -> Iterable[Finding]:
    yield from of_folder(path, stat.S_IMODE(path.stat().st_mode))
    for entry in sorted(path.iterdir()):
        if entry.suffix == ".yml":
            yield warning("unread-name", entry, "no runtime reads it", "let its name end in .yaml or .json")
        is_left = entry.suffix == TEMPORARY_SUFFIX and entry.name.startswith(".")
        if is_left and time.time() - entry.lstat().st_mtime > _ABANDONED_S:
            yield warning("leftover", entry, "a write that was cut short left it", f"run: rm {entry}")
