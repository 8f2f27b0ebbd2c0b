"""Writes the locks: every package that an image installs, with its exact version and the hashes of its files.

The names come from the agents' pyproject.toml, the versions from constraints.txt alone, the hashes from the package
index: those of all platforms and Pythons, so that one lock serves every image of an agent. What an agent newly needs
is first put into constraints.txt.
"""

import itertools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images.agents import NAMES, ROOT, Agent, agent, pyproject

BUILD_LOCK = ROOT / "images" / "build.lock"
"""What builds our wheels, in the first stage of every image."""

PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")

_HEADER = "# Made by `make lock` from pyproject.toml and constraints.txt: do not edit.\n"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_NODELIB = "cgpu-nodelib"


class Refused(Exception):
    """The index has no such versions, or not the files that are asked for; in uv's words."""


def wanted(dependencies: Iterable[str]) -> Iterator[str]:
    """What *dependencies* come to with nodelib replaced by what it needs itself for the extras that are asked for."""
    nodelib = pyproject("nodelib")["project"]
    for text in dependencies:
        requirement = Requirement(text)
        if requirement.name != _NODELIB:
            yield text
            continue
        yield from nodelib["dependencies"]
        for extra in sorted(requirement.extras):
            yield from nodelib["optional-dependencies"][extra]


def needs_of_an_image(of: Agent) -> tuple[str, ...]:
    """The packages of others that the image of an agent is asked to hold, without what those need in turn."""
    return tuple(sorted(set(wanted(of.dependencies))))


def needs_of_the_build() -> tuple[str, ...]:
    """What the packages' `build-system` tables ask for."""
    tables = (pyproject(name) for name in ("nodelib", *NAMES))
    return tuple(sorted({need for table in tables for need in table["build-system"]["requires"]}))


def pinned(text: str) -> dict[str, str]:
    """Versions by normalized name, of a lock or of constraints.txt."""
    return {canonicalize_name(name): version for name, version in _PINNED.findall(text)}


def locked(needs: Sequence[str]) -> str:
    """The text of the lock for *needs*. Raises Refused."""
    return _HEADER + _compile(needs, "--universal", "--generate-hashes", "--python-version", PYTHONS[0])


def missing_wheels(needs: Sequence[str], lock: str) -> list[str]:
    """The platforms for which *lock* cannot be installed from wheels alone, which is all that the images do."""
    missing = []
    for python, platform in itertools.product(PYTHONS, PLATFORMS):
        try:
            options = ("--only-binary", ":all:", "--python-version", python, "--python-platform", platform)
            if pinned(_compile(needs, *options)) == pinned(lock):
                continue
        except Refused:
            pass
        missing.append(f"Python {python} on {platform}")
    return missing


def _compile(needs: Sequence[str], *options: str) -> str:
    result = subprocess.run(
        (
            uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-python-downloads",
            "--constraint", str(ROOT / "constraints.txt"), *options, "-",
        ),
        input="\n".join(needs),
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if result.returncode != 0:
        raise Refused(result.stderr.strip())
    return result.stdout


def write(path: Path, needs: Sequence[str]) -> None:
    """Write the lock for *needs* to *path*. Exits with what is in the way, and then changes nothing."""
    try:
        text = locked(needs)
    except Refused as words:
        sys.exit(f"no lock for {path.name}:\n{words}")
    exact = pinned((ROOT / "constraints.txt").read_text())
    if unpinned := sorted(name for name, version in pinned(text).items() if exact.get(name) != version):
        sys.exit(f"{path.name} needs {', '.join(unpinned)}: put exact versions into constraints.txt first")
    if missing := missing_wheels(needs, text):
        sys.exit(f"{path.name} cannot be installed from wheels alone for {', '.join(missing)}")
    path.write_text(text)


def main() -> None:
    """Write all locks anew."""
    locks = {BUILD_LOCK: needs_of_the_build()}
    locks |= {agent(name).lock: needs_of_an_image(agent(name)) for name in NAMES}
    for path, needs in locks.items():
        write(path, needs)
        sys.stdout.write(f"{path.relative_to(ROOT)}: {len(pinned(path.read_text()))} packages\n")


if __name__ == "__main__":
    main()
