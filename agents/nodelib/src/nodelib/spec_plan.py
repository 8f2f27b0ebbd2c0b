"""Which CDI specs of ours a folder should hold, and which files to write and remove for it. Pure.

kata-manager does this always, device-plugin with `--cdi write`; being one piece, their files are equal byte for byte.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePath

from nodelib.cdi import CdiSpec
from nodelib.problem import Problem
from nodelib.spec_files import MODE, SpecFile, SpecFormat, spec_file_name, spec_text


@dataclass(frozen=True, slots=True)
class WriteSpec:
    """Make the file at *path* hold *content*, whole and readable by all."""

    path: PurePath
    content: bytes
    names: int
    reason: str = ""
    """Why a file that is there is replaced, if that is not plain."""

    def __str__(self) -> str:
        return f"write {self.path} ({self.names} names){f': {self.reason}' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class RemoveSpec:
    """Remove a spec of ours that no device needs any more."""

    path: PurePath
    reason: str = "none of its devices is wanted any more"

    def __str__(self) -> str:
        return f"remove {self.path}: {self.reason}"


Step = WriteSpec | RemoveSpec


@dataclass(frozen=True, slots=True)
class SpecPlan:
    """What to do in the folder, and what is in the way of doing all of it."""

    steps: tuple[Step, ...]
    problems: tuple[Problem, ...] = ()


def plan_specs(
    folder: PurePath,
    specs: Iterable[CdiSpec],
    files: Iterable[SpecFile],
    *,
    form: SpecFormat = SpecFormat.YAML,
    kinds: Collection[str] = (),
) -> SpecPlan:
    """Steps that leave exactly *specs* as our files in *folder*, where *files* are now.

    A foreign file is never touched: one that stands where ours must go, or claims a name of ours, is a problem. What
    another tool left of one of our *kinds*, wanted or not, is taken over (see `SpecFile.is_left_by_another`).
    """
    present = {file.path: file for file in files}
    wanted = {folder / spec_file_name(spec.kind, form): spec for spec in specs}
    kinds = {*kinds, *(spec.kind for spec in wanted.values())}
    steps: list[Step] = []
    problems: list[Problem] = []
    for path, spec in wanted.items():
        content = spec_text(spec, form)
        file = present.get(path)
        if file is not None and not (file.is_marked or file.is_left_by_another(kinds)):
            problems.append(_in_the_way(path))
        elif (reason := _why_written(file, content)) is not None:
            steps.append(WriteSpec(path, content, len(spec.devices), reason))
    stale = {path: reason for path, file in present.items() if path not in wanted if (reason := _stale(file, kinds))}
    removals = {path: RemoveSpec(path, stale[path]) for path in sorted(stale)}
    # The same kind in the other format claims the same names: gone first, or neither resolves for a moment.
    twins = [removals.pop(twin) for path in wanted for twin in _twins(path) if twin in removals]
    others = [file for path, file in present.items() if path not in {*wanted, *stale}]
    problems += _rival_claims(wanted.values(), others)
    return SpecPlan((*twins, *steps, *removals.values()), tuple(problems))


def plan_removal(files: Iterable[SpecFile]) -> tuple[Step, ...]:
    """Steps that remove every spec that we wrote."""
    reason = "asked for at this stop"
    return tuple(RemoveSpec(file.path, reason) for file in files if file.is_marked and file.is_named_for_its_kind)


def _why_written(file: SpecFile | None, content: bytes) -> str | None:
    """Why *file*, which is not there or ours to replace, cannot stay as it is, if that is not plain; None if it can."""
    if file is None:
        return ""
    if not file.is_marked:
        return "in place of what another tool left"
    if file.is_link:
        return "in place of a link"
    if file.content != content:
        return ""
    return f"its mode was {file.mode:04o}" if file.mode != MODE else None


def _stale(file: SpecFile, kinds: Collection[str]) -> str:
    """Why *file*, which is not wanted, must go; empty if it is not ours."""
    if file.is_marked and file.is_named_for_its_kind:
        return "none of its devices is wanted any more"
    return "another tool left it, and no device needs it" if file.is_left_by_another(kinds) else ""


def _twins(path: PurePath) -> tuple[PurePath, ...]:
    return tuple(path.with_suffix(f".{form.value}") for form in SpecFormat)


def _in_the_way(path: PurePath) -> Problem:
    return Problem(
        "cdi-foreign-file",
        f"{path} is somebody else's file where ours must go",
        "move it away if nobody needs it; it is never overwritten",
    )


def _rival_claims(specs: Iterable[CdiSpec], others: Iterable[SpecFile]) -> list[Problem]:
    ours = {name for spec in specs for name in spec.qualified_names()}
    claimed = ((file, sorted(ours.intersection(file.spec.qualified_names()))) for file in others if file.spec)
    return [
        Problem(
            "cdi-conflict",
            f"{file.path} claims {names[0]} too, so neither resolves",
            "remove that file or give us another alias",
        )
        for file, names in claimed
        if names
    ]
