"""Reading any vendor's CDI spec as strictly as container runtimes do: one fault makes the whole file invalid.

Rules: Container Device Interface specification 1.1.0, its fields and the version that brought each.
"""

import contextlib
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from nodelib.cdi import CdiDevice, CdiSpec
from nodelib.errors import InvalidValue
from nodelib.names import is_class, is_device_name, is_vendor

VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")

_Fields = Mapping[str, type]
_TOP: _Fields = {
    "cdiVersion": str,
    "kind": str,
    "devices": list,
    "containerEdits": dict,
    "annotations": dict,
}
_DEVICE: _Fields = {"name": str, "containerEdits": dict, "annotations": dict}
_EDITS: _Fields = {
    "env": list,
    "deviceNodes": list,
    "mounts": list,
    "hooks": list,
    "netDevices": list,
    "intelRdt": dict,
    "additionalGids": list,
}
_NODE: _Fields = {
    "path": str,
    "hostPath": str,
    "type": str,
    "major": int,
    "minor": int,
    "permissions": str,
    "uid": int,
    "gid": int,
    "fileMode": int,
}
_MOUNT: _Fields = {"hostPath": str, "containerPath": str, "options": list, "type": str}
_HOOK: _Fields = {"hookName": str, "path": str, "args": list, "env": list, "timeout": int}
_NET_DEVICE: _Fields = {"hostInterfaceName": str, "name": str}
_RDT: _Fields = {
    "closID": str,
    "l3CacheSchema": str,
    "memBwSchema": str,
    "enableCMT": bool,
    "enableMBM": bool,
    "schemata": list,
    "enableMonitoring": bool,
}
_HOOK_NAMES = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
_SINCE = {
    "annotations": "0.6.0",
    "intelRdt": "0.7.0",
    "additionalGids": "0.7.0",
    "netDevices": "1.1.0",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 3, 3
_WORDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    list: "a list",
    bool: "true or false",
    dict: "a mapping",
}


def lowest_version(document: object) -> str | None:
    """The oldest version in which *document* would be valid; None if it is in none."""
    if not isinstance(document, dict):
        return None
    for version in VERSIONS:
        with contextlib.suppress(InvalidValue):
            parse_spec({**document, "cdiVersion": version}, "")
            return version
    return None


def parse_spec(document: object, source: str) -> CdiSpec:
    """The spec that a parsed JSON or YAML *document* is.

    Raises InvalidValue with *source* (the file), the place in it and the rule that it breaks.
    """
    version = document.get("cdiVersion") if isinstance(document, dict) else None
    place = _Place(source, "", version if version in VERSIONS else VERSIONS[-1])
    top = place.mapping(document, _TOP, required=("cdiVersion", "kind"))
    if version not in VERSIONS:
        place.fail(f"cdiVersion {_shown(version)} is not one of {', '.join(VERSIONS)}")
    kind = str(top["kind"])
    vendor, _, class_ = kind.partition("/")
    if not is_vendor(vendor) or not is_class(class_, dots=place.knows("0.6.0")):
        place.fail(f"kind {_shown(kind)} is not vendor/class by CDI {version}")
    _check_annotations(top, place)
    if top.get("containerEdits"):
        _check_edits(top["containerEdits"], place.at("containerEdits"))
    if not top.get("devices"):
        place.fail("no devices; a spec without any is invalid, remove the file instead")
    devices = tuple(_parse_device(entry, at) for entry, at in place.items(top, "devices"))
    if doubled := _first_double(device.name for device in devices):
        place.fail(f"the device name {_shown(doubled)} stands there twice")
    return CdiSpec(kind, devices, place.version, not _has_other_edits(top, place))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in which file we are, and by which version it is to be judged."""

    source: str
    path: str
    version: str

    def at(self, step: str) -> "_Place":
        return _Place(self.source, f"{self.path}.{step}" if self.path else step, self.version)

    def fail(self, reason: str) -> NoReturn:
        where = f"{self.path}: " if self.path else ""
        raise InvalidValue(f"{self.source}: {where}{reason}")

    def knows(self, since: str) -> bool:
        return VERSIONS.index(self.version) >= VERSIONS.index(since)

    def need(self, since: str, what: str) -> None:
        if not self.knows(since):
            self.fail(f"{what} needs cdiVersion {since} or later, the file says {self.version}")

    def mapping(self, value: object, fields: _Fields, required: Iterable[str] = ()) -> Mapping[str, object]:
        """*value* as a mapping of known *fields* of the right type, the *required* ones filled."""
        if not isinstance(value, dict):
            self.fail("this is not a mapping")
        for name, item in value.items():
            if name not in fields:
                self.fail(f"unknown field {_shown(name)}")
            if item is None:
                continue  # absent, as the runtimes' YAML and JSON readers see it
            # bool is an int to Python, not to the specification
            if not isinstance(item, fields[name]) or (isinstance(item, bool) and fields[name] is not bool):
                self.fail(f"{name} is {_shown(item)}, not {_WORDS[fields[name]]}")
            if name in _SINCE:
                self.need(_SINCE[name], name)
        for name in required:
            if not value.get(name):
                self.fail(f"{name} is missing")
        return value

    def items(self, mapping: Mapping[str, object], field: str) -> Iterator[tuple[object, "_Place"]]:
        """The entries of the list *field*, each with its place."""
        value = mapping.get(field)
        for index, item in enumerate(value if isinstance(value, list) else ()):
            yield item, self.at(f"{field}[{index}]")


def _parse_device(entry: object, place: _Place) -> CdiDevice:
    if isinstance(entry, dict) and type(entry.get("name")) is int:
        # Without quotes 65 is a number to YAML; the runtimes' readers make it the text that a name must be.
        entry = {**entry, "name": str(entry["name"])}
    device = place.mapping(entry, _DEVICE, required=("name", "containerEdits"))
    _check_annotations(device, place)
    name = str(device["name"])
    if not is_device_name(name):
        place.fail(f"the name {_shown(name)} is not one that CDI allows")
    if name[0].isdigit():
        place.need("0.5.0", f"the name {_shown(name)}, which begins with a digit,")
    edits = place.at("containerEdits")
    nodes = _check_edits(device["containerEdits"], edits)
    if not any(edits.mapping(device["containerEdits"], _EDITS).values()):
        edits.fail("there is no edit in it")
    return CdiDevice(name, nodes)


def _check_edits(value: object, place: _Place) -> tuple[str, ...]:
    """The host paths of the device nodes of a `containerEdits`, after all of it was checked."""
    edits = place.mapping(value, _EDITS)
    for variable, at in place.items(edits, "env"):
        if not isinstance(variable, str) or variable.find("=") < 1:
            at.fail(f"{_shown(variable)} is not NAME=VALUE")
    for entry, at in place.items(edits, "mounts"):
        mount = at.mapping(entry, _MOUNT, required=("hostPath", "containerPath"))
        _check_texts(mount, "options", at)
        if mount.get("type"):
            at.need("0.4.0", "a mount's type")
    for entry, at in place.items(edits, "hooks"):
        hook = at.mapping(entry, _HOOK, required=("hookName", "path"))
        if hook["hookName"] not in _HOOK_NAMES:
            at.fail(f"{_shown(hook['hookName'])} is no OCI hook")
        _check_texts(hook, "args", at)
        _check_texts(hook, "env", at)
    _check_newer_edits(edits, place)
    return tuple(_node_path(entry, at) for entry, at in place.items(edits, "deviceNodes"))


def _check_newer_edits(edits: Mapping[str, object], place: _Place) -> None:
    """Those that came after 0.6.0."""
    for entry, at in place.items(edits, "netDevices"):
        at.mapping(entry, _NET_DEVICE, required=("hostInterfaceName", "name"))
    for gid, at in place.items(edits, "additionalGids"):
        if type(gid) is not int or gid < 0:
            at.fail(f"{_shown(gid)} is no group's number")
    if edits.get("intelRdt"):
        _check_texts(place.at("intelRdt").mapping(edits["intelRdt"], _RDT), "schemata", place.at("intelRdt"))


def _check_annotations(mapping: Mapping[str, object], place: _Place) -> None:
    annotations = mapping.get("annotations")
    for key, value in annotations.items() if isinstance(annotations, dict) else ():
        if not isinstance(key, str) or not isinstance(value, str):
            place.at("annotations").fail(f"{_shown(key)}: {_shown(value)} is not a text for a text")


def _check_texts(mapping: Mapping[str, object], field: str, place: _Place) -> None:
    for item, at in place.items(mapping, field):
        if isinstance(item, dict | list) or item is None:
            at.fail(f"{_shown(item)} is not a text")


def _node_path(entry: object, place: _Place) -> str:
    node = place.mapping(entry, _NODE, required=("path",))
    if node.get("hostPath"):
        place.need("0.5.0", "hostPath")
    if node.get("type") not in (None, "", "b", "c", "u", "p"):
        place.fail(f"type {_shown(node['type'])} is not b, c, u or p")
    if not set(str(node.get("permissions") or "")) <= set("rwm"):
        place.fail(f"permissions {_shown(node['permissions'])} are not of r, w and m")
    return str(node.get("hostPath") or node["path"])


def _has_other_edits(top: Mapping[str, object], place: "_Place") -> bool:
    """Whether a runtime would change more of a container than its device nodes, one device's alone."""
    common = top.get("containerEdits")
    if isinstance(common, dict) and any(common.values()):
        return True
    edits = (entry["containerEdits"] for entry, _ in place.items(top, "devices") if isinstance(entry, dict))
    return any(value for of_one in edits for name, value in of_one.items() if name != "deviceNodes")


def _shown(value: object) -> str:
    """*value* in a message: its beginning tells enough, and all of it could fill the log."""
    return _SHORT.repr(value)


def _first_double(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
