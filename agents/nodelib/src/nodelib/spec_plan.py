"""Which CDI specs of ours a folder should hold, and which files to write and remove for it. Pure.

kata-manager does this always, device-plugin with `--cdi write`; being one piece, their files are equal byte for byte.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from nodelib.cdi import CdiSpec
from nodelib.problem import Problem
from nodelib.spec_files import SpecFile, spec_file_name, spec_text


@dataclass(frozen=True, slots=True)
class WriteSpec:
    """Make the file at *path* hold *content*, whole."""

    path: PurePath
    content: bytes
    names: int

    def __str__(self) -> str:
        return f"write {self.path} ({self.names} names)"


@dataclass(frozen=True, slots=True)
class RemoveSpec:
    """Remove a spec of ours that no device needs any more."""

    path: PurePath

    def __str__(self) -> str:
        return f"remove {self.path}: none of its devices is wanted any more"


Step = WriteSpec | RemoveSpec


@dataclass(frozen=True, slots=True)
class SpecPlan:
    """What to do in the folder, and what is in the way of doing all of it."""

    steps: tuple[Step, ...]
    problems: tuple[Problem, ...] = ()


def plan_specs(folder: PurePath, specs: Iterable[CdiSpec], files: Iterable[SpecFile]) -> SpecPlan:
    """Steps that leave exactly *specs* as our files in *folder*, where *files* are now.

    A foreign file is never touched: one that stands where ours must go, or claims a name of ours, is a problem.
    """
    present = {file.path: file for file in files}
    wanted = {folder / spec_file_name(spec.kind): spec for spec in specs}
    steps: list[Step] = []
    problems: list[Problem] = []
    for path, spec in wanted.items():
        content = spec_text(spec)
        file = present.get(path)
        if file is None or (file.content != content and file.is_ours_for(spec.kind)):
            steps.append(WriteSpec(path, content, len(spec.devices)))
        elif file.content != content:
            problems.append(_in_the_way(path))
    ours = {path for path, file in present.items() if file.is_marked}
    steps += [RemoveSpec(path) for path in sorted(ours - set(wanted))]
    problems += _rival_claims(wanted.values(), [file for path, file in present.items() if path not in {*wanted, *ours}])
    return SpecPlan(tuple(steps), tuple(problems))


def plan_removal(files: Iterable[SpecFile]) -> tuple[Step, ...]:
    """Steps that remove every spec of ours."""
    return tuple(RemoveSpec(file.path) for file in files if file.is_marked)


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
