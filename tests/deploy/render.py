"""What `kubectl kustomize` makes of a folder, for machines that have none: the part of kustomize that deploy/ uses.

Whatever deploy/ does not use is refused, so that nothing is passed over in silence. Where kubectl is there,
test_kustomize.py compares.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tests.fakes.kube.patch import apply_json_patch

Object: TypeAlias = dict[str, Any]
"""One Kubernetes object, as YAML and JSON have it."""

_KEYS = {"apiVersion", "kind", "resources", "components", "labels", "images", "patches", "configMapGenerator"}


class Unsupported(Exception):
    """A kustomization uses what this renderer does not know."""


def render(folder: Path) -> list[Object]:
    """The objects of the kustomization in *folder*, in the order in which they are met."""
    return _render(folder, [])


def objects_in(path: Path) -> list[Object]:
    """The YAML documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def identity(item: Object) -> tuple[str, str, str]:
    """Kind, namespace and name, by which objects are told apart."""
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def _render(folder: Path, objects: list[Object]) -> list[Object]:
    """*objects* with the kustomization in *folder* added and, as a component does, applied to all of them."""
    (said,) = objects_in(folder / "kustomization.yaml")
    _refuse_others(said, _KEYS, f"{folder}")
    for name in said.get("resources", ()):
        path = (folder / name).resolve()
        objects = objects + (_render(path, []) if path.is_dir() else objects_in(path))
    for name in said.get("components", ()):
        objects = _render((folder / name).resolve(), objects)
    objects = objects + [_config_map(folder, entry) for entry in said.get("configMapGenerator", ())]
    for patch in said.get("patches", ()):
        objects = _patched(objects, patch)
    for entry in said.get("labels", ()):
        _refuse_others(entry, {"pairs", "includeTemplates"}, "labels")
        for item in objects:
            _add_labels(item, entry["pairs"], templates=entry.get("includeTemplates", False))
    for entry in said.get("images", ()):
        _refuse_others(entry, {"name", "newName", "newTag"}, "images")
        for container in (one for item in objects for one in _containers(item)):
            _set_image(container, entry)
    if len({identity(item) for item in objects}) < len(objects):
        raise Unsupported(f"{folder}: two objects of one name")
    return objects


def _refuse_others(said: Mapping[str, object], known: set[str], place: str) -> None:
    if unknown := set(said) - known:
        raise Unsupported(f"{place}: {', '.join(sorted(unknown))}")


def _config_map(folder: Path, entry: Object) -> Object:
    _refuse_others(entry, {"name", "namespace", "files", "options"}, "configMapGenerator")
    options = entry["options"]
    _refuse_others(options, {"disableNameSuffixHash", "labels"}, "options")
    if not options["disableNameSuffixHash"]:
        raise Unsupported("a generated name")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": entry["name"], "namespace": entry["namespace"], "labels": dict(options["labels"])},
        "data": {Path(name).name: (folder / name).read_text(encoding="utf-8") for name in entry["files"]},
    }


def _patched(objects: Iterable[Object], entry: Object) -> list[Object]:
    _refuse_others(entry, {"target", "patch"}, "patches")
    is_meant = _selector(entry["target"])
    patch = yaml.safe_load(entry["patch"])
    if isinstance(patch, dict):
        if patch.get("$patch") != "delete":
            raise Unsupported("a strategic merge patch")
        return [item for item in objects if not is_meant(item)]
    done = []
    for item in objects:
        changed = apply_json_patch(item, patch) if is_meant(item) else item
        if not isinstance(changed, dict):
            raise Unsupported("a patch that leaves no object")
        done.append(changed)
    return done


def _selector(target: Object) -> Callable[[Object], bool]:
    _refuse_others(target, {"kind", "name", "labelSelector"}, "target")
    # Regular expressions that have to match the whole name.
    kind, name = (re.compile(target.get(key, ".*")) for key in ("kind", "name"))
    wanted = dict(term.split("=") for term in target.get("labelSelector", "").split(",") if term)

    def is_meant(item: Object) -> bool:
        labels = item["metadata"].get("labels", {})
        return bool(
            kind.fullmatch(item["kind"])
            and name.fullmatch(item["metadata"]["name"])
            and all(labels.get(key) == value for key, value in wanted.items())
        )

    return is_meant


def _add_labels(item: Object, pairs: Mapping[str, str], *, templates: bool) -> None:
    item["metadata"].setdefault("labels", {}).update(pairs)
    template = item.get("spec", {}).get("template") if templates else None
    if template:
        template["metadata"].setdefault("labels", {}).update(pairs)


def _containers(item: Object) -> list[Object]:
    pod = item.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def _set_image(container: Object, entry: Object) -> None:
    name, _, tag = container["image"].partition(":")
    if name == entry["name"]:
        container["image"] = f"{entry.get('newName', name)}:{entry.get('newTag', tag)}"
