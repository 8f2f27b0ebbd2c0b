"""Builds the agents' images with docker, podman or buildah, whichever answers here. Needs nothing but Python."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from images.agents import NAMES, ROOT, Agent, agent

ENGINES = ("docker", "podman", "buildah")
BASE = "docker.io/library/python:3.13-slim"
REGISTRY = "localhost/cgpu-agents"
"""Where deploy/base looks for the images unless an overlay says otherwise."""

_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True)
class Order:
    """What all images of one call have in common."""

    engine: str
    base: str
    registry: str
    tag: str
    platform: str
    epoch: int
    """Seconds since 1970: the date of every file and of the image itself, so that equal sources give equal images."""
    revision: str

    def name(self, of: Agent) -> str:
        """What the image of an agent will be called."""
        return f"{self.registry.rstrip('/')}/{of.image}:{self.tag or of.version}"


def build_command(order: Order, of: Agent) -> tuple[str, ...]:
    """The command that builds the image of one agent, to be run in the repository's root."""
    arguments = {"BASE": order.base, "SOURCE_DATE_EPOCH": order.epoch, "VERSION": of.version}
    arguments["REVISION"] = order.revision
    several = "," in order.platform
    return (
        order.engine,
        "build",
        *(() if order.engine == "docker" else ("--timestamp", str(order.epoch), "--format", "oci")),
        *(("--platform", order.platform) if order.platform else ()),
        *(part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")),
        "--file",
        str((of.folder / "Dockerfile").relative_to(ROOT)),
        "--manifest" if several else "--tag",
        order.name(of),
        ".",
    )


def problem(order: Order) -> str:
    """Why *order* cannot be carried out; empty if it can."""
    if order.engine == "docker" and "," in order.platform:
        return "docker keeps an image for one platform only: give one PLATFORM, or ENGINE=buildah"
    return ""


def answering(engines: Sequence[str] = ENGINES) -> str:
    """The first of *engines* that is installed and works; empty if there is none."""
    for engine in engines:
        if shutil.which(engine) and _said(engine, "info") is not None:  # a docker without its daemon is none
            return engine
    return ""


def source_date(environment: Mapping[str, str] = os.environ) -> int:
    """SOURCE_DATE_EPOCH, else the time of the commit that is checked out, else the first day that a zip can hold."""
    told = environment.get("SOURCE_DATE_EPOCH") or _said("git", "log", "-1", "--format=%ct") or "315532800"
    return int(told)


def revision() -> str:
    """The commit that is checked out, and whether there is more than it."""
    commit = _said("git", "rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    return f"{commit}-dirty" if _said("git", "status", "--porcelain") else commit


def size(engine: str, name: str) -> int | None:
    """Bytes of an image as its engine counts them (buildah: to three digits); None where it does not tell."""
    if engine != "buildah":
        told = _said(engine, "image", "inspect", "--format", "{{.Size}}", name)
        return int(told) if told and told.isdigit() else None
    told = _said(engine, "images", "--format", "{{.Size}}", name)
    found = re.match(r"([0-9.]+) ?([kKMG]?B)", told or "")
    return round(float(found[1]) * _UNITS[found[2]]) if found else None


def size_line(order: Order, of: Agent) -> str:
    """What became of an agent: the image's name, its size, and how much of that is not the base's."""
    whole, base = size(order.engine, order.name(of)), size(order.engine, order.base)
    sizes = [f"{whole / 1e6:.0f} MB"] if whole is not None else []
    if whole is not None and base is not None:
        sizes.append(f"{(whole - base) / 1e6:.0f} MB above its base")
    return "  ".join((order.name(of), ", ".join(sizes))).rstrip()


def _said(*command: str) -> str | None:
    """What *command* prints; None if it fails or is not there."""
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _parse(arguments: Sequence[str]) -> tuple[Order, list[Agent]]:
    parser = argparse.ArgumentParser(prog="python3 -m images.build", description=__doc__)
    parser.add_argument("agents", nargs="*", metavar="AGENT", help=f"which images (default: {', '.join(NAMES)})")
    parser.add_argument("--engine", choices=ENGINES, help="default: the first of these that works here")
    parser.add_argument("--base", default=BASE, help="a Debian with Python 3.11 or later (default: %(default)s)")
    parser.add_argument("--platform", default="", help="linux/amd64 or linux/arm64; podman and buildah take both")
    parser.add_argument(
        "--registry", default=REGISTRY, help="what comes before the image's name (default: %(default)s)"
    )
    parser.add_argument("--tag", default="", help="default: the agent's version")
    told = parser.parse_args(arguments)
    try:
        agents = [agent(name) for name in told.agents or NAMES]
    except ValueError as error:
        parser.error(str(error))
    engine = told.engine or answering()
    if not engine:
        parser.error("no engine works here: install buildah or podman, or start docker (see `docker info`)")
    order = Order(engine, told.base, told.registry, told.tag, told.platform, source_date(), revision())
    if why := problem(order):
        parser.error(why)
    return order, agents


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what *arguments* ask for; 1 if the engine refuses one."""
    order, agents = _parse(sys.argv[1:] if arguments is None else arguments)
    for one in agents:
        result = subprocess.run(build_command(order, one), cwd=ROOT, check=False)
        if result.returncode != 0:
            sys.stderr.write(f"error: {order.engine} could not build {order.name(one)}; its reason is above\n")
            return 1
    for one in agents:
        sys.stdout.write(size_line(order, one) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
