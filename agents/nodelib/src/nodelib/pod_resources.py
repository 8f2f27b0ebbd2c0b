"""Which pods of this node have which devices, as the kubelet's PodResources API tells, and a way to ask without grpc.

`PodResourcesClient` in `nodelib.pod_resources_client` asks from this process; grpc then costs it some 25 MiB of memory
for good. For device-plugin, which has grpc anyway, and for commands that end soon (`doctor`).

`PodResourcesChild` below asks through a process that lives for one question, which takes some 0.3 s of a CPU and leaves
nothing behind. For daemons that ask now and then, as cc-manager does.

Both raise the errors below. The API: facts, kubelet-protos.md, podresources/v1; the feature gate of `get`: facts,
kubelet-cdi-kata-contract.md, 1.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, Self

from nodelib.errors import NodeError

POD_RESOURCES_SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
"""Where the kubelet tells which pod has which device."""
TIMEOUT_S = 5.0
"""For one answer; the kubelet takes it from memory."""
START_S = 10.0
"""What a child may take on top of that to start and end, on a machine that has much to do."""


class PodResourcesError(NodeError):
    """The kubelet did not tell which pods have which devices."""


class KubeletUnreachable(PodResourcesError):
    """Nobody answered: no socket, no permission, no kubelet behind it, or no answer in time."""


class GetDisabled(PodResourcesError):
    """The kubelet answers, and its `get` is switched off or not known to it; Kata then finds no device of any pod."""


class PodUnknown(PodResourcesError):
    """The kubelet answers, and has no such pod."""


_ERRORS: Mapping[str, type[PodResourcesError]] = {
    error.__name__: error for error in (PodResourcesError, KubeletUnreachable, GetDisabled, PodUnknown)
}


@dataclass(frozen=True, order=True, slots=True)
class PodDevices:
    """The devices of one resource that one container of a pod has."""

    namespace: str
    pod: str
    container: str
    resource: str
    """As the kubelet writes it: `nvidia.com/pgpu`."""
    device_ids: tuple[str, ...]

    @classmethod
    def from_dict(cls, fields: Mapping[str, object]) -> Self:
        """Raises KeyError or TypeError for what no worker of ours wrote."""
        ids = fields["device_ids"]
        if not isinstance(ids, list):
            raise TypeError("device_ids is no list")
        namespace, pod, container, resource = (str(fields[f]) for f in ("namespace", "pod", "container", "resource"))
        return cls(namespace, pod, container, resource, tuple(map(str, ids)))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} ({self.container}): {self.resource}={','.join(self.device_ids)}"


class PodResources(Protocol):
    """Who has what. Every method raises PodResourcesError or one of its kinds, each with the remedy."""

    def list(self) -> tuple[PodDevices, ...]:
        """Of every pod, sorted; pods without a plugin's device are not in it.

        A pod is in it from its admission on, before anything of it runs. Kubelets before 1.34 also list pods that have
        ended and are not deleted yet.
        """

    def get(self, namespace: str, pod: str) -> tuple[PodDevices, ...]:
        """Of one pod, sorted. Raises PodUnknown, or GetDisabled where the kubelet does not offer it."""

    def offers_get(self) -> bool:
        """Whether `get` is on, without which Kata attaches no device. Raises KubeletUnreachable if nobody answers."""


@dataclass(frozen=True, slots=True)
class PodResourcesChild:
    """Asks through a child process for each question. *socket* is the kubelet's, as this process sees it."""

    socket: Path
    timeout_s: float = TIMEOUT_S
    """For the kubelet's answer; the child itself may take `START_S` longer."""

    def list(self) -> tuple[PodDevices, ...]:
        return self._ask("list")

    def get(self, namespace: str, pod: str) -> tuple[PodDevices, ...]:
        return self._ask("get", namespace, pod)

    def offers_get(self) -> bool:
        return offers_get(self)

    def _ask(self, *question: str) -> tuple[PodDevices, ...]:
        # -I: neither the folder that we run in nor PYTHON* variables decide what the child imports.
        command = (sys.executable, "-I", "-m", "nodelib.pod_resources_worker", str(self.socket), str(self.timeout_s))
        try:
            ended = subprocess.run(
                (*command, *question),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.timeout_s + START_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise KubeletUnreachable(
                f"asking the kubelet on {self.socket} took longer than {late.timeout:g} s and was ended; "
                "look at the load of the machine"
            ) from late
        except OSError as error:
            raise PodResourcesError(f"cannot start the process that asks the kubelet ({error.strerror})") from error
        return from_json(ended.stdout, ended.stderr)


def offers_get(pod_resources: PodResources) -> bool:
    """Ask for a pod that cannot exist: a kubelet that offers `get` says so, one that does not says that instead."""
    try:
        pod_resources.get("", "")
    except PodUnknown:
        return True
    except GetDisabled:
        return False
    return True


def to_json(answer: tuple[PodDevices, ...] | PodResourcesError) -> str:
    """What a worker prints: `{"pods": [...]}`, or `{"error": ..., "text": ...}`."""
    if isinstance(answer, PodResourcesError):
        return json.dumps({"error": type(answer).__name__, "text": str(answer)})
    return json.dumps({"pods": [asdict(devices) for devices in answer]})


def from_json(text: bytes, complaint: bytes = b"") -> tuple[PodDevices, ...]:
    """The answer that a worker printed, its error raised; *complaint* is what it said where it printed none."""
    try:
        answer = json.loads(text)
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["text"])
        return tuple(PodDevices.from_dict(fields) for fields in answer["pods"])
    except (ValueError, KeyError, TypeError) as error:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
        raise PodResourcesError(f"the process that asks the kubelet failed: {last[:300]}") from error
