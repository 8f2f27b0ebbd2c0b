"""Decide which spec files there should be and which modules are to be loaded. Nothing here touches the node."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from kata_manager.settings import Settings
from nodelib import spec_plan
from nodelib.cdi import specs_for
from nodelib.problem import Problem
from nodelib.spec_files import SpecFile
from nodelib.spec_plan import SpecPlan
from nodelib.vfio import AssignableDevice


@dataclass(frozen=True, slots=True)
class LoadModule:
    """Have a kernel module loaded that Kata's VMs need."""

    module: str

    def __str__(self) -> str:
        return f"load the kernel module {self.module}"


Step = LoadModule | spec_plan.Step


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do on the node, and what is in the way of doing all of it."""

    steps: tuple[Step, ...]
    problems: tuple[Problem, ...] = ()


def plan_specs(
    folder: PurePath, devices: Iterable[AssignableDevice], files: Iterable[SpecFile], settings: Settings
) -> SpecPlan:
    """Steps that leave in *folder* one spec for each kind of device that can be given away, and no other of ours."""
    wanted = specs_for(devices, settings.version)
    return spec_plan.plan_specs(folder, wanted, files, form=settings.form, kinds=settings.kinds)


def plan(specs: SpecPlan, missing_modules: Iterable[str], *, keeps_specs: bool = True) -> Plan:
    """All that `run` does: *specs*, where they are ours to keep, after the modules."""
    modules = tuple(LoadModule(module) for module in missing_modules)
    return Plan((*modules, *specs.steps), specs.problems) if keeps_specs else Plan(modules)
