"""Decide which spec files there should be. Nothing here touches the node."""

from collections.abc import Iterable
from pathlib import PurePath

from nodelib.cdi import specs_for
from nodelib.spec_files import SpecFile
from nodelib.spec_plan import SpecPlan, plan_specs
from nodelib.vfio import AssignableDevice


def plan(folder: PurePath, devices: Iterable[AssignableDevice], files: Iterable[SpecFile]) -> SpecPlan:
    """Steps that leave in *folder* one spec for each kind of device that can be given away, and no other of ours."""
    return plan_specs(folder, specs_for(devices), files)
