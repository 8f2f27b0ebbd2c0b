"""What the manifests in deploy/ say about labels and alerts."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.pages.source import ROOT

BASE = ROOT / "deploy/base"
_PLACEHOLDER = re.compile(r"\{\{ \$(?:labels\.)?(\w+) \}\}")
ALERTS = ROOT / "deploy/components/monitoring/alerts.yaml"


def labels() -> tuple[tuple[str, str], ...]:
    """Each node label (or extended resource) of deploy/base, sorted, and who sets it or selects nodes by it."""
    found: dict[str, list[str]] = {}
    for manifest in _manifests():
        for key, use in _uses(manifest):
            found.setdefault(key, []).append(use)
    return tuple((key, "; ".join(dict.fromkeys(uses))) for key, uses in sorted(found.items()))


def alerts() -> tuple[tuple[str, str, str, str], ...]:
    """Each alert's name, severity, summary, and expression with how long it must hold."""
    groups = yaml.safe_load(ALERTS.read_text())["spec"]["groups"]
    return tuple(
        (
            rule["alert"],
            rule["labels"]["severity"],
            _PLACEHOLDER.sub(lambda found: found[1].upper(), rule["annotations"]["summary"]),
            f"`{rule['expr']}`" + (f" for {rule['for']}" if "for" in rule else ""),
        )
        for group in groups
        for rule in group["rules"]
    )


def _manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(BASE.rglob("*.yaml")):
        yield from (document for document in yaml.safe_load_all(path.read_text()) if document)


def _uses(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    match manifest["kind"]:
        case "DaemonSet":
            yield from _affinity(manifest)
        case "RuntimeClass":
            yield from _class(manifest)
        case "NodeFeatureRule":
            for rule in manifest["spec"]["rules"]:
                for key in (*rule.get("labels", ()), *rule.get("extendedResources", ())):
                    yield key, f"set by the NFD rule {rule['name']!r}"


def _affinity(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    affinity = manifest["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    for term in affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]:
        for one in term["matchExpressions"]:
            values = " ".join([one["operator"], ", ".join(one.get("values", ()))]).strip()
            yield one["key"], f"{manifest['metadata']['name']} runs where it is {values}"


def _class(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    name = manifest["metadata"]["name"]
    for key, value in manifest["scheduling"]["nodeSelector"].items():
        yield key, f"class {name} wants `{value}`"
    for key in manifest.get("overhead", {}).get("podFixed", {}):
        if "/" in key:
            yield key, f"each pod of class {name} takes one"
