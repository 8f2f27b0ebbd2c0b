"""`python -B -m tests.deploy.life AGENT FOLDER GIVEN ARGUMENT...`: one agent's life on a simulated node, told as JSON.

The agent's own command line gets the arguments of its DaemonSet. GIVEN is JSON: `rights`, what the API server allows
it, and `folders`, those of the host that are mounted. What is told at the end: the host paths that its code opened,
what it asked of the API server, and its pages.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cc_manager.cluster.labels import MESSAGE, MODE, READY, STATE
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings as KataSettings
from nodelib.cli import run_command
from tests.deploy.manifests import NAMESPACE, agents
from tests.deploy.opened import Opened
from tests.deploy.test_commands import group
from tests.fakes.kube.cluster import PODS
from tests.fakes.kube.patch import JsonObject, section, text
from tests.fakes.kube.store import Selector
from tests.fakes.kubelet.minimal_plugin import MinimalPlugin, device
from tests.fakes.node import SimulatedNode
from tests.fakes.polling import until
from vfio_manager.reconcile import Binder
from vfio_manager.settings import READY_FILE, SwitchPolicy
from vfio_manager.settings import Settings as VfioSettings

GPU = "nvidia.com/pgpu"
TENANT = ("tenant", "training")
LABELS = {"nvidia.com/gpu.workload.config": "vm-passthrough", "nvidia.com/cc.capable": "true"}
_PAGES = ("/healthz", "/readyz", "/metrics")


class Life:
    """The node, the agent on it, and what is to be told of both."""

    def __init__(self, agent: str, folder: Path, rights: Iterable[Sequence[str]], folders: Iterable[str]) -> None:
        # gh200 has a driver that must be loaded first; the board with switches gives the others more to do.
        self.node = SimulatedNode("gh200" if agent == "vfio-manager" else "dgx-h100", folder, labels=LABELS)
        self.agent = agent
        self.evicts = False
        self.root = str(self.node.node.host.root)
        self.node.api.allow = {tuple(right) for right in rights}
        for path in folders:  # as the kubelet makes those that are missing (DirectoryOrCreate)
            self.node.node.host.resolve(path).mkdir(parents=True, exist_ok=True)
        self.opened = Opened()
        self.pages: dict[str, str] = {}
        self.failure: BaseException | None = None
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.listen = f"127.0.0.1:{free.getsockname()[1]}"

    def run(self, arguments: list[str]) -> int:
        """The agent, with *arguments*, from its start to SIGTERM; its exit code."""
        self.evicts = "--when-busy=evict" in arguments
        if self.agent == "vfio-manager":  # its holders are looked for where the nvidia driver tells the GPU's node
            self.node.kernel.processes.show_nvidia_gpu(str(self.node.node.scan().gpus[0].address), 0)
        else:
            settings = VfioSettings(nvswitches=SwitchPolicy.ALWAYS, ready_file="")
            assert Binder(self.node.node, settings).bind().ok
        if self.agent == "device-plugin":
            SpecKeeper(self.node.node, KataSettings()).write()
        for name, other in agents().items():
            if name != self.agent:
                selects = {one["key"]: one["values"][0] for one in other.requirements}
                self.node.api.cluster.add_daemon_set(name, NAMESPACE, selects=selects, by_affinity=True)
        self.node.kernel.set_module_parameter("kvm_amd", "sev_snp", "Y")
        self.node.kernel.writes.clear()
        told = [f"--listen={self.listen}" if one.startswith("--listen=") else one for one in arguments]
        driver = threading.Thread(target=self._drive, name="driver", daemon=True)
        self.opened.watch()
        driver.start()
        code = run_command(group(self.agent), told, obj=self.node)
        self.opened.is_on = False
        driver.join(30)
        return code

    def report(self) -> Mapping[str, object]:
        """What the tests look at. Paths are the host's."""
        inside = f"{self.root}/"
        reads, writes = self.opened.reads, self.opened.writes
        written = {path.removeprefix(self.root) for path in writes if path.startswith(inside)}
        return {
            "failure": repr(self.failure) if self.failure else "",
            "reads": sorted(path.removeprefix(self.root) for path in reads if path.startswith(inside)),
            # What goes through the kernel's door of the simulated node is a write to /sys like any other.
            "writes": sorted(written | {f"/sys/{path}" for path, _ in self.node.kernel.writes}),
            "written_elsewhere": sorted(path for path in writes if not path.startswith(inside) and path != os.devnull),
            "requests": sorted({(one.verb, one.resource, one.namespace, one.status) for one in self.node.api.requests}),
            "pages": self.pages,
            "history": [[dict(state.labels), dict(state.annotations)] for state in self.node.api.history],
        }

    def close(self) -> None:
        self.node.close()

    def _drive(self) -> None:
        """What happens to the node while the agent runs."""
        try:
            until(lambda: self._page("/healthz") == "ok")
            {
                "vfio-manager": self._bind,
                "cc-manager": self._change_modes,
                "kata-manager": self._lose_a_spec,
                "device-plugin": self._use_a_gpu,
            }[self.agent]()
            self.pages = {page: self._page(page) for page in _PAGES}
        except BaseException as error:  # noqa: BLE001 - told to the test, which is in another process
            self.failure = error
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def _bind(self) -> None:
        ready = self.node.node.host.resolve(READY_FILE)
        until(ready.exists)

    def _change_modes(self) -> None:
        api = self.node.api
        until(lambda: api.labels.get(READY) == "true")
        until(lambda: len(self._operand_pods()) == 3)  # claimed, so the other DaemonSets run here
        api.cluster.pods_linger = True
        with self._pod_with_gpu():
            api.set_label(MODE, "ppcie")
            if self.evicts:
                until(lambda: TENANT in self._terminating())
            else:
                until(lambda: "in use" in api.annotations.get(MESSAGE, ""))
            api.cluster.end_pod(*TENANT)
        until(lambda: any((one.verb, one.resource) == ("watch", "pods") for one in api.requests))
        api.cluster.pods_linger = False
        for pod in self._terminating():
            api.cluster.end_pod(*pod)
        until(lambda: api.labels.get(STATE) == "ppcie")
        until(lambda: len(self._operand_pods()) == 3)
        api.set_label(MODE, "no-mode")
        until(lambda: api.labels.get(STATE) == "failed")
        api.set_label(MODE, "off")
        until(lambda: api.labels.get(READY) == "false")

    @contextlib.contextmanager
    def _pod_with_gpu(self) -> Iterator[None]:
        """A tenant's pod, known to the kubelet and to the API server, whose VM has a GPU open until the pod ends."""
        kubelet, gpu = self.node.kubelet, self.node.node.scan().gpus[0]
        namespace, name = TENANT
        with MinimalPlugin(kubelet.kubelet_socket.parent, [device(str(gpu.iommu_group))]) as plugin:
            plugin.register()
            kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 1, 30)
            kubelet.admit_pod(name, namespace, requests={GPU: 1})
            machine = self.node.kernel.start_vm(gpu.address)
            self.node.api.add_pod(name, namespace, {"app": name})

            def end(*ended: str) -> None:
                if ended == TENANT:
                    machine.close()
                    kubelet.delete_pod(name, namespace)

            self.node.api.cluster.on_pod_end.append(end)
            yield

    def _operand_pods(self) -> list[JsonObject]:
        return self.node.api.store.select(Selector(PODS, NAMESPACE))[0]

    def _terminating(self) -> list[tuple[str, str]]:
        pods = (section(pod, "metadata") for pod in self.node.api.store.select(Selector(PODS))[0])
        return [(text(pod, "namespace"), text(pod, "name")) for pod in pods if "deletionTimestamp" in pod]

    def _lose_a_spec(self) -> None:
        spec = self.node.node.host.resolve("/var/run/cdi/nvidia.com-pgpu.yaml")
        until(spec.exists)
        spec.unlink()
        until(spec.exists)
        self._until_ready()

    def _use_a_gpu(self) -> None:
        kubelet = self.node.kubelet
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 8, 30)
        kubelet.admit_pod("one", requests={GPU: 1})
        kubelet.restart()
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 8, 30)
        self._until_ready()

    def _until_ready(self) -> None:
        until(lambda: self._page("/readyz") != "")

    def _page(self, page: str) -> str:
        """The page; nothing unless it is answered with 200."""
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://{self.listen}{page}", timeout=5) as answer,
        ):
            return str(answer.read().decode()).strip()
        return ""


def main(agent: str, folder: str, given: str, *arguments: str) -> int:
    """Live it and print the report; the exit code is the agent's own."""
    life = Life(agent, Path(folder), **json.loads(given))
    os.environ["KUBECONFIG"] = str(life.node.kubeconfig)
    code = life.run(list(arguments))
    sys.stdout.write(json.dumps(life.report()))
    life.close()
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
