"""Simulated nodes with something wrong on them: what docs/troubleshooting.md shows, as it is seen there."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cc_manager.cluster.labels import MODE
from nodelib.pci import PciAddress
from tests.demo.agents import RunningAgents
from tests.fakes.node import SimulatedNode
from tests.fakes.parts import CLASS_NIC, MELLANOX, gpu, other

GPU = "0000:17:00.0"
"""The first GPU of `mixed`."""
CARD = "0000:01:00.0"
"""The graphics card of `workstation`."""

Trouble = Callable[[SimulatedNode], contextlib.AbstractContextManager[None]]


class CannotBeMade(Exception):
    """This machine does not let us make the trouble: what a page shows of it stays as it was."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A node, and what is wrong with it while it is looked at."""

    topology: str
    trouble: Trouble
    is_bound: bool = False
    """Whether vfio-manager has had its way before the trouble."""
    label: str = ""
    """The mode that the node asks for."""

    @contextlib.contextmanager
    def on(self, folder: Path) -> Iterator[SimulatedNode]:
        """The node below *folder*, in its trouble."""
        labels: Mapping[str, str] = {MODE: self.label} if self.label else {}
        with SimulatedNode(self.topology, folder, labels=dict(labels)) as simulated:
            if self.is_bound:
                RunningAgents(simulated).vfio_manager().bind()
            with self.trouble(simulated):
                yield simulated


@contextlib.contextmanager
def _nothing(simulated: SimulatedNode) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _held(simulated: SimulatedNode) -> Iterator[None]:
    kernel = simulated.kernel
    kernel.processes.show_nvidia_gpu(CARD, 0)
    with kernel.in_use(CARD, pid=815, command="nvidia-persistenced"):
        _hold(simulated, 815, "/dev/nvidia0")
        yield


@contextlib.contextmanager
def _in_a_vm(simulated: SimulatedNode) -> Iterator[None]:
    with simulated.kernel.start_vm(GPU, pid=4711):
        _hold(simulated, 4711, "/dev/vfio/1")
        yield


def _hold(simulated: SimulatedNode, pid: int, node: str) -> None:
    try:
        simulated.kernel.processes.hold(pid, node)
    except PermissionError as error:
        raise CannotBeMade("no device node can be made here (CAP_MKNOD)") from error


@contextlib.contextmanager
def _foreign_member(simulated: SimulatedNode) -> Iterator[None]:
    card = other("0000:01:00.4", MELLANOX, 0x1021, CLASS_NIC, group=1, behind="0000:00:01.0")
    simulated.kernel.add_device(card, driver="mlx5_core")
    yield


@contextlib.contextmanager
def _with_vfs(simulated: SimulatedNode) -> Iterator[None]:
    simulated.kernel.add_device(replace(gpu("0000:0a:00.0", group=40), vf_count=4), driver="nvidia")
    yield


@contextlib.contextmanager
def _hung_unbind(simulated: SimulatedNode) -> Iterator[None]:
    simulated.kernel.faults.hang.add((PciAddress.parse(CARD), "unbind"))
    try:
        yield
    finally:
        simulated.kernel.release_hangs()


@contextlib.contextmanager
def _off_the_bus(simulated: SimulatedNode) -> Iterator[None]:
    simulated.kernel.fall_off_bus(GPU)
    yield


@contextlib.contextmanager
def _locked_down(simulated: SimulatedNode) -> Iterator[None]:
    simulated.kernel.set_lockdown("integrity")
    yield


@contextlib.contextmanager
def _label_followed(simulated: SimulatedNode) -> Iterator[None]:
    """cc-manager has looked at the label and told the node what came of it."""
    RunningAgents(simulated).cc_reconciler().round()
    yield


@contextlib.contextmanager
def _label_while_in_a_vm(simulated: SimulatedNode) -> Iterator[None]:
    with simulated.kernel.start_vm(GPU):
        RunningAgents(simulated).cc_reconciler().round()
        yield


@contextlib.contextmanager
def _mode_that_does_not_stick(simulated: SimulatedNode) -> Iterator[None]:
    simulated.devices[PciAddress.parse(GPU)].faults.keeps_old_mode = True
    RunningAgents(simulated).cc_reconciler().round()
    yield


@contextlib.contextmanager
def _paused(simulated: SimulatedNode) -> Iterator[None]:
    """A cc-manager died in the midst of a change, and was taken away."""
    for operand in ("vfio-manager", "kata-sandbox-device-plugin"):
        simulated.api.set_label(f"nvidia.com/gpu.deploy.{operand}", "paused-for-cc-mode-change")
    yield


def _with_spec(name: str, text: str) -> Trouble:
    """Another tool's CDI spec beside ours, which are in place."""

    @contextlib.contextmanager
    def trouble(simulated: SimulatedNode) -> Iterator[None]:
        RunningAgents(simulated).kata_manager().write()
        (simulated.node.host.resolve("/var/run/cdi") / name).write_text(text)
        yield

    return trouble


_RIVAL = """\
cdiVersion: 0.5.0
kind: nvidia.com/pgpu
devices:
- name: "1"
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/1
"""

SCENARIOS: dict[str, Scenario] = {
    "no IOMMU": Scenario("h200-vm", _nothing),
    "nothing bound yet": Scenario("workstation", _nothing),
    "all well": Scenario("mixed", _nothing, is_bound=True),
    "a daemon holds the GPU": Scenario("workstation", _held),
    "a GPU in a VM": Scenario("mixed", _in_a_vm, is_bound=True),
    "two GPUs in one group": Scenario("shared-group", _nothing, is_bound=True),
    "a foreign device in the group": Scenario("workstation", _foreign_member),
    "virtual functions": Scenario("workstation", _with_vfs),
    "an unbind that hangs": Scenario("workstation", _hung_unbind),
    "a GPU off the bus": Scenario("mixed", _off_the_bus, is_bound=True),
    "no specs": Scenario("workstation", _nothing, is_bound=True),
    "a rival spec": Scenario("workstation", _with_spec("other-tool.yaml", _RIVAL), is_bound=True),
    "a broken spec": Scenario("workstation", _with_spec("broken.json", "{"), is_bound=True),
    "lockdown": Scenario("mixed", _locked_down, is_bound=True),
    "a label that is no mode": Scenario("mixed", _label_followed, is_bound=True, label="ON"),
    "a mode that the chip lacks": Scenario("hgx-b200", _label_followed, is_bound=True, label="ppcie"),
    "a mode change while a VM runs": Scenario("mixed", _label_while_in_a_vm, is_bound=True, label="on"),
    "a mode that does not stick": Scenario("mixed", _mode_that_does_not_stick, is_bound=True, label="on"),
    "operands left paused": Scenario("mixed", _paused, is_bound=True),
    "cc-manager on unbound GPUs": Scenario("mixed", _label_followed, label="on"),
}
"""By the name that a page gives before what it shows."""
