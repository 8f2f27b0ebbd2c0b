"""`python -m tests.demo [TOPOLOGY]`: exit code 0 only if every step was verified."""

import logging
import sys
import tempfile
from pathlib import Path

from cc_manager.cluster.labels import MODE
from tests.demo.agents import RunningAgents
from tests.demo.assignable import prepare_and_use
from tests.demo.screen import Screen
from tests.demo.verdicts import tell_the_truth
from tests.fakes.node import SimulatedNode
from tests.fakes.topologies import TOPOLOGIES


def main(topology: str) -> int:
    """Run the demo on *topology*; the exit code."""
    known = topology in TOPOLOGIES or topology.removeprefix("scale-").isdigit()
    if not known:
        print(f"error: no topology {topology!r}: there are {', '.join(TOPOLOGIES)} and scale-N", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="demo-") as folder,
        SimulatedNode(topology, Path(folder), labels={MODE: "off"}) as simulated,
    ):
        screen = Screen(str(simulated.node.host.root))
        logging.basicConfig(level=logging.INFO, handlers=[screen], force=True)
        inventory = simulated.node.scan()
        screen.title(
            f"Simulated node {topology}: GPUs {len(inventory.gpus)}, NVSwitches {len(inventory.nvswitches)}. "
            "Real agents."
        )
        agents = RunningAgents(simulated)
        run = prepare_and_use if inventory.groups else tell_the_truth
        try:
            run(simulated, agents, screen)
        except (AssertionError, TimeoutError):
            pass  # the step has said it, and the summary says it again
        finally:
            agents.stop()
    return 0 if screen.summary() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "dgx-h100"))
