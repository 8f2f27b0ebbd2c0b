"""What a spec expects to be on the host and is not there: device nodes, mounts, hooks."""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kata_manager.findings import Finding, error, warning
from nodelib.errors import InvalidValue
from nodelib.node import Node
from nodelib.spec_files import SpecFile, document_of

_KINDS = {"b": stat.S_IFBLK, "c": stat.S_IFCHR, "u": stat.S_IFCHR, "p": stat.S_IFIFO}
"""What the specification's types are in a file's mode; `u` is an unbuffered character device (mknod(1))."""


def missing_on_host(node: Node, file: SpecFile) -> Iterator[Finding]:
    """A finding for each path that *file* names and the host lacks, or has as something else.

    A device has several names, so the same is wrong in several places: it is told once.
    """
    seen: dict[str, list[Finding]] = {}
    for path, finding in _all_missing(node, file):
        seen.setdefault(path, []).append(finding)
    for findings in seen.values():
        more = f" (and {len(findings) - 1} more times)" if len(findings) > 1 else ""
        yield replace(findings[0], text=f"{findings[0].text}{more}")


def _all_missing(node: Node, file: SpecFile) -> Iterator[tuple[str, Finding]]:
    """The findings by the paths that they are about."""
    if file.spec is None:
        return
    for place, edits in _all_edits(document_of(file)):
        for index, entry in enumerate(edits.get("deviceNodes") or ()):
            path = str(entry.get("hostPath") or entry["path"])
            for finding in _of_device_node(node, file, f"{place}.deviceNodes[{index}]", path, entry):
                yield path, finding
        for field, path_field in (("mounts", "hostPath"), ("hooks", "path")):
            for index, entry in enumerate(edits.get(field) or ()):
                path = str(entry[path_field])
                if _look(node, path) is None:
                    text = f"{place}.{field}[{index}]: there is no {path} on this host"
                    yield path, warning("no-file", file.path, text, "install it, or make the spec anew for this host")


def _all_edits(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "containerEdits", document.get("containerEdits") or {}
    for index, entry in enumerate(document["devices"]):
        yield f"devices[{index}].containerEdits", entry["containerEdits"]


def _of_device_node(
    node: Node, file: SpecFile, place: str, path: str, entry: Mapping[str, object]
) -> Iterator[Finding]:
    found = _look(node, path)
    if found is None:
        yield _absent(node, file, place, path)
        return
    kind = _KINDS.get(str(entry.get("type") or ""))
    if kind is not None and stat.S_IFMT(found.st_mode) != kind:
        text = f"{place}: {path} is not of type {entry['type']}"
        yield error("other-node", file.path, text, "make the spec anew for this host")
    numbers = (os.major(found.st_rdev), os.minor(found.st_rdev))
    wanted = (entry.get("major"), entry.get("minor"))
    if (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)) and wanted[0] and wanted != numbers:
        text = f"{place}: {path} is device {numbers[0]}:{numbers[1]}, not {wanted[0]}:{wanted[1]}"
        yield error("other-node", file.path, text, "take the numbers out of the spec: a reboot changes them")


def _absent(node: Node, file: SpecFile, place: str, path: str) -> Finding:
    text = f"{place}: there is no {path}"
    if not node.host.shows_dev and node.host.resolve(f"/sys/class/vfio/{path.rpartition('/')[2]}").exists():
        # A container's own /dev gains no node after its start; the kernel has the group all the same.
        return warning("no-node", file.path, f"{text} in this /dev", "in a container give --host-root the host's root")
    remedy = "bind the device (vfio-manager bind)" if path.startswith("/dev/vfio/") else "load the device's driver"
    return error("no-node", file.path, text, f"{remedy}, or make the spec anew: no container with it can start")


def _look(node: Node, path: str) -> os.stat_result | None:
    """The host's file at *path*, never opened; None if it is not there."""
    try:
        return node.host.resolve(path).stat()
    except (OSError, InvalidValue):
        return None
