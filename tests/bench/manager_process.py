"""`python -m tests.bench.manager_process`: cc-manager's own `run` in a process of its own, on a simulated node.

Only the last inches are not what a node has: BAR0 and the kernel's answers come from the process that measures, and
the API server's address from the command line. Nothing of the simulation is loaded here, so that the process is as
large as the agent.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

from cc_manager.cli import cli
from cc_manager.cluster import kube_access
from nodelib.files import HostRoot
from nodelib.kernel_writes import KernelWriter
from nodelib.kube import ApiAccess, Kube
from nodelib.node import Node
from nodelib.sysfs import Sysfs
from nodelib.uevents import kernel_uevents
from tests.bench.remote_words import map_remote_words


def main(root: str, writer_socket: str, words_socket: str, url: str, ca_file: str, token_file: str) -> None:
    child = Path(__file__).parents[1] / "fakes/kernel/write_child.py"
    writer = KernelWriter(child=(sys.executable, "-I", "-S", str(child), writer_socket))
    host = HostRoot(Path(root))
    node = Node(host, Sysfs(host, writer), kernel_uevents)
    kube_access.open_kube = lambda kubeconfig: Kube(ApiAccess(url, ca_file=ca_file, token_file=token_file))
    simulated = SimpleNamespace(node=node, map_words=lambda path: map_remote_words(words_socket, path))
    cli.main(["run", "--node-name", "node-1", "--interval", "60"], obj=simulated)


if __name__ == "__main__":
    main(*sys.argv[1:])
