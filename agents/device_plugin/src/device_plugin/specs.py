"""The CDI specs that the devices are attached by: written, required or ignored, as `--cdi` says."""

from collections.abc import Callable
from types import MappingProxyType
from typing import assert_never

from device_plugin.inventory import Devices, hold_back
from device_plugin.settings import CdiMode
from nodelib import spec_folder, spec_plan
from nodelib.cdi import specs_for
from nodelib.errors import NodeError
from nodelib.files import HostRoot
from nodelib.problem import Problem
from nodelib.spec_files import DYNAMIC_FOLDER, Resolution
from nodelib.spec_folder import SpecReader
from nodelib.steps import carry_out


class Specs:
    """The CDI folders of *host*; nothing is written any more once *stopped*."""

    def __init__(self, host: HostRoot, mode: CdiMode, stopped: Callable[[], bool] = lambda: False) -> None:
        self._host = host
        self._mode = mode
        self._stopped = stopped
        self._reader = SpecReader(host)

    def check(self, devices: Devices) -> tuple[Devices, tuple[str, ...]]:
        """*devices* with a reason on each that must be held back, and what is wrong with the specs that we write."""
        match self._mode:
            case CdiMode.WRITE:
                troubles = self._write(devices)
                resolution = self.resolve()
                troubles += tuple(str(problem) for problem in resolution.problems)
                # A broken file of somebody else is told, and holds nothing back: not every runtime refuses for it.
                return hold_back(devices, resolution.nodes), tuple(dict.fromkeys(troubles))
            case CdiMode.REQUIRE:
                resolution = self.resolve()
                return hold_back(devices, resolution.nodes, resolution.problems), ()
            case CdiMode.OFF:
                return devices, ()
            case _:
                assert_never(self._mode)

    def plan(self, devices: Devices) -> spec_plan.SpecPlan:
        """What would be done to the files that we keep ourselves. Raises NodeError for a folder that cannot be read."""
        if self._mode is not CdiMode.WRITE:
            return spec_plan.SpecPlan(())
        folder = self._host.resolve(DYNAMIC_FOLDER)
        return spec_plan.plan_specs(folder, specs_for(devices), self._reader.read(folder))

    def resolve(self) -> Resolution:
        """What the names resolve to; of folders that cannot be read that is nothing, with the reason."""
        try:
            return self._reader.resolve()
        except NodeError as error:
            return Resolution(MappingProxyType({}), (Problem("cdi-unreadable", str(error)),))

    def _write(self, devices: Devices) -> tuple[str, ...]:
        """Make the files those of *devices*; what stands in the way is told, not raised."""
        try:
            planned = self.plan(devices)
            carry_out(planned.steps, spec_folder.apply, stopped=self._stopped)
        except NodeError as error:
            return (str(error),)
        return tuple(str(problem) for problem in planned.problems)
