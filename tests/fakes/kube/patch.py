"""JSON documents, and the two kinds of patch that a client may send for one."""

import copy
import json
from collections.abc import Sequence
from typing import TypeAlias

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
JsonObject: TypeAlias = dict[str, JsonValue]
Pointer: TypeAlias = tuple[str, ...]


class PatchError(ValueError):
    """An operation that does not fit the document, or a `test` that failed."""


def section(value: JsonValue, *path: str) -> JsonObject:
    """The object at a path of names; empty where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def text(value: JsonValue, *path: str) -> str:
    """The string at a path of names; empty where there is none."""
    found = section(value, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""


def apply_merge_patch(target: JsonValue, patch: JsonValue) -> JsonValue:
    """RFC 7386; the target is left as it is."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply_merge_patch(merged.get(key), value)
    return merged


def apply_json_patch(target: JsonObject, operations: Sequence[JsonObject]) -> JsonObject:
    """RFC 6902, all operations or none; the target is left as it is."""
    patched = copy.deepcopy(target)
    for operation in operations:
        _carry_out(patched, operation)
    return patched


def _carry_out(document: JsonObject, operation: JsonObject) -> None:
    path = _parse_pointer(operation.get("path"))
    # The library in the API server takes a `value` that is not there for null.
    value = copy.deepcopy(operation.get("value"))
    match operation.get("op"):
        case "test":
            _test(document, path, value)
        case "add":
            _add(document, path, value)
        case "replace":
            _replace(document, path, value)
        case "remove":
            _remove(document, path)
        case "copy":
            source = _parse_pointer(operation.get("from"))
            _add(document, path, copy.deepcopy(_find(document, source)))
        case "move":
            _add(document, path, _remove(document, _parse_pointer(operation.get("from"))))
        case unknown:
            raise PatchError(f"unknown operation {unknown!r}")


def _parse_pointer(pointer: JsonValue) -> Pointer:
    """RFC 6901: `~1` stands for a slash and `~0` for a tilde, decoded in this order."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        # RFC 6901 allows "" for the whole document; the API server's library does not.
        raise PatchError(f"not a JSON pointer to a member: {pointer!r}")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/"))


def _find(document: JsonObject, path: Pointer) -> JsonValue:
    found: JsonValue = document
    for part in path:
        match found:
            case dict() if part in found:
                found = found[part]
            case list():
                found = found[_index(part, len(found))]
            case _:
                raise PatchError(f"nothing at /{'/'.join(path)}")
    return found


def _parent(document: JsonObject, path: Pointer) -> JsonObject | list[JsonValue]:
    parent = _find(document, path[:-1])
    if not isinstance(parent, dict | list):
        raise PatchError(f"nothing can be at /{'/'.join(path)}")
    return parent


def _index(part: str, length: int) -> int:
    if not (part.isascii() and part.isdecimal()) or int(part) >= length:
        raise PatchError(f"no index {part} in a list of {length}")
    return int(part)


def _test(document: JsonObject, path: Pointer, value: JsonValue) -> None:
    parent = _parent(document, path)
    if value is None and isinstance(parent, dict) and path[-1] not in parent:
        # Not in RFC 6902: the API server's library (evanphx/json-patch v4, Patch.test) lets a test
        # for null pass where the member is absent, so a client can ask for "not there yet".
        return
    # Compared as JSON text: to Python, True equals 1.
    if json.dumps(_find(document, path), sort_keys=True) != json.dumps(value, sort_keys=True):
        raise PatchError(f"test failed at /{'/'.join(path)}")


def _add(document: JsonObject, path: Pointer, value: JsonValue) -> None:
    parent, last = _parent(document, path), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    else:
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)


def _replace(document: JsonObject, path: Pointer, value: JsonValue) -> None:
    _find(document, path)
    parent, last = _parent(document, path), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    else:
        parent[_index(last, len(parent))] = value


def _remove(document: JsonObject, path: Pointer) -> JsonValue:
    _find(document, path)
    parent, last = _parent(document, path), path[-1]
    if isinstance(parent, dict):
        return parent.pop(last)
    return parent.pop(_index(last, len(parent)))
