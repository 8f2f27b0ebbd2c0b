"""Becoming known to the kubelet."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from device_plugin.plan import KubeletId
from nodelib.daemon import Backoff
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import RegistrationStub
from nodelib.names import ResourceName

log = logging.getLogger(__name__)

API_VERSION = "v1beta1"
ANSWER_TIMEOUT_S = 15.0
"""The kubelet first calls us back, for which it takes up to 10 s (facts: kubelet device plugin API)."""
RETRY = Backoff(first_s=0.05, longest_s=30.0)
"""Quick at first: between making its socket and listening on it the kubelet refuses connections."""
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)
"""Else grpc lets a new channel wait for the end of an earlier one's back-off to the same address."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one server asks of one kubelet."""

    kubelet_socket: Path
    kubelet: KubeletId
    resource: ResourceName
    endpoint: str


class Registering:
    """Asks the kubelet, again and again with growing pauses, until it has accepted or `cancel` is called.

    In a thread of its own: a kubelet may take its time to answer, and meanwhile devices must be watched.
    """

    def __init__(
        self,
        request: Request,
        on_answer: Callable[[str], None],
        *,
        failures: int = 0,
        before_asking: Callable[[], None] = lambda: None,
    ) -> None:
        self.request = request
        self._on_answer = on_answer
        self._before_asking = before_asking
        self._failures = failures
        self._cancelled = threading.Event()
        self._call: grpc.Future[api.Empty] | None = None
        self._calling = threading.Lock()
        self.accepted_at: float | None = None
        """Monotonic time of the kubelet's yes."""
        self.problem = ""
        """Why the last attempt failed."""
        self._thread = threading.Thread(target=self._run, name=f"register {request.resource}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """End it, whatever it waits for."""
        self._cancelled.set()
        with self._calling:
            if self._call is not None:
                self._call.cancel()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        if self._failures:
            self._cancelled.wait(RETRY.pause_s(self._failures))
        while not self._cancelled.is_set():
            problem = self._ask()
            if self._cancelled.is_set():
                return
            if not problem:
                self.problem = ""
                self.accepted_at = time.monotonic()
                self._on_answer("accepted")
                return
            self._failures += 1
            if problem != self.problem:
                log.warning("could not register %s: %s", self.request.resource, problem)
                self.problem = problem
            self._on_answer("failed")
            self._cancelled.wait(RETRY.pause_s(self._failures))

    def _ask(self) -> str:
        """One attempt over a connection of its own; why it failed, or nothing."""
        request = api.RegisterRequest(
            version=API_VERSION, endpoint=self.request.endpoint, resource_name=str(self.request.resource)
        )
        self._before_asking()
        try:
            with grpc.insecure_channel(f"unix:{self.request.kubelet_socket}", options=CHANNEL_OPTIONS) as channel:
                with self._calling:
                    if self._cancelled.is_set():
                        return "cancelled"
                    self._call = RegistrationStub(channel).Register.future(request, timeout=ANSWER_TIMEOUT_S)
                self._call.result()
        except grpc.FutureCancelledError:
            return "cancelled"
        except grpc.RpcError as error:
            return _reason(error)
        return ""


def _reason(error: grpc.RpcError) -> str:
    if not isinstance(error, grpc.Call):
        return str(error)
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        # What follows the first clause is grpc's account of how it tried.
        return f"the kubelet does not answer on its socket ({(error.details() or '').partition(';')[0]})"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the kubelet did not answer within {ANSWER_TIMEOUT_S:g} s"
    return f"the kubelet refused: {error.details()}"
