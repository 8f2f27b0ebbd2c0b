"""The kernel modules that Kata's virtual machines need on their host, whatever devices they are given."""

import contextlib
from collections.abc import Iterable

from kata_manager.plan import LoadModule
from nodelib.errors import NodeError
from nodelib.modules import KernelModules
from nodelib.node import Node
from nodelib.problem import Problem
from nodelib.steps import carry_out


class VhostModules:
    """Sees to it that *names* are there; what is built into the kernel is."""

    def __init__(self, node: Node, names: Iterable[str]) -> None:
        self._modules = KernelModules(node.host, node.modprobe)
        self._names = tuple(names)

    def missing(self) -> tuple[str, ...]:
        """Those that are to be loaded; one of which nobody can tell is among them."""
        return tuple(name for name in self._names if not self._is_there(name))

    def load(self) -> tuple[Problem, ...]:
        """Load what is missing; the problems of those that would not be."""
        problems = []
        for name in self.missing():
            try:
                carry_out([LoadModule(name)], lambda step: self._modules.load(step.module))
            except NodeError as error:
                remedy = "if something else loads it, set LOAD_KERNEL_MODULES=false"
                problems.append(Problem("no-module", str(error), remedy))
        return tuple(problems)

    def _is_there(self, name: str) -> bool:
        with contextlib.suppress(NodeError):  # /sys is not to be seen: the next question may tell
            if self._modules.is_loaded(name):
                return True
        with contextlib.suppress(NodeError):  # nor are the host's modules: modprobe will tell
            return self._modules.is_builtin(name)
        return False
