"""The locks say what pyproject.toml and constraints.txt say; whoever changes those runs `make lock`."""

import re
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images.agents import NAMES, ROOT, agent, pyproject
from images.lock import BUILD_LOCK, PLATFORMS, PYTHONS, needs_of_an_image, needs_of_the_build, pinned, wanted

STALE = "is stale: new packages into constraints.txt, then run `make lock`"
CONSTRAINTS = pinned((ROOT / "constraints.txt").read_text())
LOCKS = (BUILD_LOCK, *(agent(name).lock for name in NAMES))


def names_needed(requirements: Iterable[str]) -> set[str]:
    """The names that *requirements* come to on some supported Python, by what the installed packages say they need."""
    left = list(requirements)
    seen: set[str] = set()
    done: set[str] = set()
    while left:
        text = left.pop()
        requirement = Requirement(text)
        if text in seen or not applies(requirement, extras=[""]):
            continue
        seen.add(text)
        name = canonicalize_name(requirement.name)
        done.add(name)
        for further in map(Requirement, distribution(name).requires or ()):
            if applies(further, extras=["", *requirement.extras]):
                further.marker = None
                left.append(str(further))
    return done


def applies(requirement: Requirement, extras: list[str]) -> bool:
    if requirement.marker is None:
        return True
    environments = [
        {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
        for extra in extras
        for python in PYTHONS
    ]
    return any(requirement.marker.evaluate(environment) for environment in environments)


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_names_what_the_agent_needs_and_nothing_else(name: str) -> None:
    one = agent(name)
    lock = one.lock.relative_to(ROOT)
    needed = names_needed([one.distribution]) - {one.distribution, "cgpu-nodelib"}
    assert set(pinned(one.lock.read_text())) == needed, f"{lock} {STALE}"


def test_the_build_lock_names_what_builds_our_wheels() -> None:
    assert set(pinned(BUILD_LOCK.read_text())) == names_needed(needs_of_the_build()), f"images/build.lock {STALE}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_has_the_versions_of_the_constraints(lock: Path) -> None:
    versions = pinned(lock.read_text())
    differing = {name: version for name, version in versions.items() if CONSTRAINTS.get(name) != version}
    assert differing == {}, f"{lock.relative_to(ROOT)} {STALE}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_every_line_of_a_lock_is_a_version_or_a_hash(lock: Path) -> None:
    """And so never an index, a path, a range or an option that would let something else in."""
    comment, *lines = lock.read_text().splitlines()
    assert comment.startswith("# Made by `make lock`")
    text = "".join(line.removesuffix("\\") if line.endswith("\\") else f"{line}\n" for line in lines)
    entry = r"[a-z0-9-]+==[A-Za-z0-9.+!-]+( ; [^\n]*?)? (    --hash=sha256:[0-9a-f]{64} ?)+"
    for line in text.splitlines():
        assert re.fullmatch(entry, line), f"{lock.relative_to(ROOT)}: {line[:80]}"


def test_nodelib_is_replaced_by_what_it_needs_for_the_extras_asked_for() -> None:
    found = set(wanted(["cgpu-nodelib[yaml,kubelet]==0.1.0", "further>=2"]))
    assert {Requirement(text).name for text in found} == {"click", "PyYAML", "grpcio", "protobuf", "further"}


def test_locks_are_made_for_the_pythons_that_the_packages_name_and_for_both_architectures() -> None:
    for name in NAMES:
        classifiers = (agent(name).folder / "pyproject.toml").read_text()
        assert tuple(re.findall(r"Programming Language :: Python :: (3\.\d+)", classifiers)) == PYTHONS
    assert {platform.partition("-")[0] for platform in PLATFORMS} == {"x86_64", "aarch64"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("nodelib", *NAMES, include_external_packages=True)


def imported_by(name: str, graph: grimp.ImportGraph) -> set[str]:
    """The distributions whose modules an agent imports anywhere, in the child processes that it starts too.

    Without those of its own extras, which are for use outside of a cluster: it does without them.
    """
    modules = graph.find_upstream_modules(name, as_package=True) | graph.find_descendants(name) | {name}
    for module in [module for module in modules if module in OURS]:
        for child in re.findall(r'"-m", "([a-z_.]+)"', OURS[module].read_text()):
            modules |= {child} | graph.find_upstream_modules(child)
    known = packages_distributions()
    found = {distribution for module in modules for distribution in known.get(module.partition(".")[0], ())}
    extras = pyproject(name)["project"].get("optional-dependencies", {})
    left_out = {canonicalize_name(Requirement(text).name) for extra in extras.values() for text in extra}
    return {str(canonicalize_name(one)) for one in found if not one.startswith("cgpu-")} - left_out


OURS = {
    ".".join(path.relative_to(source).with_suffix("").parts): path
    for source in (ROOT / "agents" / name / "src" for name in ("nodelib", *NAMES))
    for path in source.rglob("*.py")
}


@pytest.mark.parametrize("name", NAMES)
def test_every_package_that_the_code_imports_is_in_the_lock(name: str, graph: grimp.ImportGraph) -> None:
    missing = imported_by(name, graph) - set(pinned(agent(name).lock.read_text()))
    assert missing == set(), f"{agent(name).image} imports these: add the extra of nodelib, then `make lock`"


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_asked_to_hold_nothing_that_the_code_does_not_import(name: str, graph: grimp.ImportGraph) -> None:
    asked = {canonicalize_name(Requirement(text).name) for text in needs_of_an_image(agent(name))}
    assert asked - imported_by(name, graph) == set(), f"{agent(name).image} never imports these"
