"""Writes a bill of materials of every image's Python packages (CycloneDX 1.6, JSON), out of the lock it is built from.

The packages of the base image, and kmod where it is added, are Debian's: a scanner finds them in the image's own dpkg
database. Names, versions and hashes are the lock's; licences and who needs whom are what the installed packages say.
"""

import re
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import Distribution, distribution

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images.agents import NAMES, ROOT, Agent, agent
from images.build import source_date
from images.lock import pinned

FOLDER = ROOT / "dist" / "sbom"
HASH_PROPERTY = "cgpu:lock:sha256"
"""One for each file of the package that the lock lets in: a wheel for each platform and Python."""

_ENTRY = re.compile(r"^(\S+)==\S+(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n?)+)", re.MULTILINE)
_LICENCE_CLASSIFIER = "License :: OSI Approved :: "


def hashes(lock: str) -> dict[str, tuple[str, ...]]:
    """The SHA-256 sums that a lock lets in, by package."""
    return {canonicalize_name(name): tuple(re.findall("[0-9a-f]{64}", sums)) for name, sums in _ENTRY.findall(lock)}


def bill(of: Agent, epoch: int) -> Bom:
    """What is in the image of an agent; *epoch* (seconds since 1970) is when it was built."""
    lock = of.lock.read_text()
    sums = hashes(lock)
    root = _component(of.distribution, of.version, ComponentType.APPLICATION)
    library = _component("cgpu-nodelib", of.version, ComponentType.LIBRARY)
    others = [
        _component(name, version, ComponentType.LIBRARY, sums[name]) for name, version in sorted(pinned(lock).items())
    ]
    bom = Bom(
        components=[library, *others],
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{of.distribution}=={of.version}\n{lock}"),
    )
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    by_name: dict[str, Component] = {canonicalize_name(one.name): one for one in (root, library, *others)}
    for name, component in by_name.items():
        bom.register_dependency(component, [by_name[need] for need in _needs(name) if need in by_name])
    return bom


def _component(name: str, version: str, kind: ComponentType, sums: Sequence[str] = ()) -> Component:
    """A package; ours, which have no sums, are on no index, so only others' have a package URL of one."""
    return Component(
        type=kind,
        name=name,
        version=version,
        bom_ref=f"{name}=={version}",
        purl=PackageURL("pypi", None, canonicalize_name(name), version) if sums else None,
        licenses=[LicenseFactory().make_from_string(text) for text in _licences(distribution(name))],
        properties=[Property(name=HASH_PROPERTY, value=value) for value in sums],
    )


def _licences(installed: Distribution) -> list[str]:
    """What a package says of its licence: an SPDX expression if it has one, else its classifiers, else its own word."""
    if expression := _field(installed, "License-Expression"):
        return [expression]
    classified = [
        text.removeprefix(_LICENCE_CLASSIFIER)
        for text in installed.metadata.get_all("Classifier") or ()
        if text.startswith(_LICENCE_CLASSIFIER)
    ]
    word = _field(installed, "License")
    return classified or ([word] if word and "\n" not in word else [])


def _field(installed: Distribution, name: str) -> str:
    return next(iter(installed.metadata.get_all(name) or ()), "")


def _needs(name: str) -> set[str]:
    """The packages that one needs, those for its extras included: which extras are asked for, the lock has decided."""
    return {canonicalize_name(Requirement(text).name) for text in distribution(name).requires or ()}


def text(of: Agent, epoch: int) -> str:
    """The bill as JSON; equal locks give equal bytes."""
    return JsonV1Dot6(bill(of, epoch)).output_as_string(indent=2) + "\n"


def main() -> None:
    """Write one file an agent."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        one = agent(name)
        path = FOLDER / f"{one.image}.cdx.json"
        path.write_text(text(one, source_date()))
        sys.stdout.write(f"{path.relative_to(ROOT)}: {len(pinned(one.lock.read_text())) + 2} packages\n")


if __name__ == "__main__":
    main()
