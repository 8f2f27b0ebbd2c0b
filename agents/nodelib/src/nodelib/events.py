"""Kubernetes Events on the Node, posted in the background; optional everywhere, so nothing here raises.

Fields and their limits: kubernetes, pkg/apis/core/validation/events.go and the core/v1 Event.
"""

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nodelib.errors import NodeError
from nodelib.event_reasons import EventReason

if TYPE_CHECKING:  # urllib3 (14 MiB), which is imported only where there is an API server to talk to
    from nodelib.kube import ApiError, Kube

log = logging.getLogger(__name__)

REPEAT_S = 300.0
QUEUE_LENGTH = 64
_REMEMBERED = 256
_MAX_MESSAGE_BYTES = 1024
_MAX_INSTANCE_BYTES = 128
_MAX_NAME_LENGTH = 253
_FIRST_RETRY_S = 1.0
_ANSWER_S = 5.0
_LONGEST_RETRY_S = 60.0
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

# A Node has no namespace; the API server takes Events on such objects in this one.
_EVENTS = "/api/v1/namespaces/default/events"


@dataclass(frozen=True, slots=True)
class _Event:
    reason: EventReason
    message: str
    happened: datetime

    @property
    def key(self) -> tuple[str, str]:
        return self.reason.name, self.message


class EventPoster:
    """Posts Events on the Node *node_name* as *component*; without *open_kube* every call does nothing.

    `post` only puts into a queue, so no round of an agent waits for the API server. The way to the API server is opened
    for the first Event, as it costs 14 MiB and a node on which all is well has nothing to tell; the poster closes it.
    """

    def __init__(
        self,
        open_kube: "Callable[[], Kube] | None",
        node_name: str,
        component: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_retry_s: float = _FIRST_RETRY_S,
    ) -> None:
        self._open_kube = open_kube
        self._node_name = node_name
        self._component = component
        self._clock = clock
        self._first_retry_s = first_retry_s
        self._changed = threading.Condition()
        self._waiting: deque[_Event] = deque()
        self._posted_at: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._is_over = open_kube is None
        self._is_away = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many Events were lost: refused, pushed out of a full queue, or left at the end."""
        with self._changed:
            return self._dropped

    def post(self, reason: EventReason, message: str) -> None:
        """Tell an administrator *message*, one sentence. The same again within 5 minutes is passed over."""
        event = _Event(reason, _shortened(message), datetime.now(UTC))
        with self._changed:
            if self._is_over or self._is_repeated(event):
                return
            if len(self._waiting) >= QUEUE_LENGTH:
                self._lose(self._waiting.popleft())
            self._waiting.append(event)
            self._changed.notify_all()
            if self._thread is None:
                self._start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Post what waits, for at most *timeout_s* and only while the API server answers; later posts do nothing."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return
        thread.join(timeout_s)
        with self._changed:
            self._lose_all()

    # --- under the lock

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="events", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads for us just now: the next Event tries again
            thread.start()
            self._thread = thread

    def _is_repeated(self, event: _Event) -> bool:
        """Whether the same was posted lately; remembers it if not."""
        now = self._clock()
        while self._posted_at and next(iter(self._posted_at.values())) <= now - REPEAT_S:
            self._posted_at.popitem(last=False)
        if event.key in self._posted_at:
            return True
        self._posted_at[event.key] = now
        if len(self._posted_at) > _REMEMBERED:
            self._posted_at.popitem(last=False)
        return False

    def _lose(self, event: _Event) -> None:
        """Count an Event that nobody will see; what is still true may then be posted again at once."""
        self._dropped += 1
        self._posted_at.pop(event.key, None)

    def _lose_all(self) -> None:
        while self._waiting:
            self._lose(self._waiting.popleft())

    # --- in the thread

    def _run(self) -> None:
        if self._open_kube is None:
            return
        try:
            kube = self._open_kube()
        except NodeError as error:
            log.warning("no Kubernetes Events will be posted: %s", error)
            with self._changed:
                self._is_over = True
                self._lose_all()
            return
        with contextlib.closing(kube):
            while (event := self._next()) is not None:
                self._deliver(kube, event)

    def _next(self) -> _Event | None:
        """The Event to post now; None when it is all over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            return self._waiting.popleft() if self._waiting else None

    def _deliver(self, kube: "Kube", event: _Event) -> None:
        """Post *event*, again and again while the API server is away."""
        body = self._body(event)
        for growing_s in _growing(self._first_retry_s):
            error = _attempt(kube, body)
            if error is None or not _is_passing(error):
                self._note_answer(event, error)
                return
            if not self._is_away:
                self._is_away = True
                log.warning("cannot post Kubernetes Events for now, they are kept: %s", error)
            pause_s = min(max(growing_s, error.retry_after_s or 0.0), _LONGEST_RETRY_S)
            with self._changed:
                if self._changed.wait_for(lambda: self._is_over, pause_s):
                    self._lose(event)
                    self._lose_all()
                    return

    def _note_answer(self, event: _Event, error: "ApiError | None") -> None:
        if self._is_away:
            self._is_away = False
            log.info("the API server takes Kubernetes Events again; lost so far: %d", self.dropped)
        if error is None:
            return
        with self._changed:
            self._lose(event)
            if error.status == 403:
                self._is_over = True
                self._lose_all()
        if error.status == 403:
            log.warning("no more Kubernetes Events: %s; allow `create` on `events` in namespace default", error)
        else:
            log.warning("lost the Kubernetes Event %s: %s", event.reason.name, error)

    def _body(self, event: _Event) -> dict[str, object]:
        """The Event as core/v1 has it; with an eventTime it needs a reporting component, instance and an action."""
        seconds = event.happened.strftime("%Y-%m-%dT%H:%M:%SZ")
        # One name for every attempt: a repetition of one that arrived is then a conflict and no second Event.
        suffix = f".{os.urandom(8).hex()}"
        name = self._node_name[: _MAX_NAME_LENGTH - len(suffix)].rstrip(".-") + suffix
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            # The kubelet gives the Node's name as its uid, and `kubectl describe node` asks for Events by that.
            "involvedObject": {"kind": "Node", "name": self._node_name, "uid": self._node_name},
            "reason": event.reason.name,
            "message": event.message,
            "type": event.reason.type.value,
            "action": event.reason.name,
            "source": {"component": self._component, "host": self._node_name},
            "reportingComponent": self._component,
            "reportingInstance": self._node_name[:_MAX_INSTANCE_BYTES],
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "eventTime": event.happened.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "count": 1,
        }


def open_poster(
    environment: Mapping[str, str], node_name: str, component: str, folder: str = _SERVICE_ACCOUNT
) -> EventPoster:
    """A poster with the access of this pod, whose service account is in *folder*; without one, one that does nothing.

    Nothing is asked of the API server here.
    """
    reason = "the node's name is not known (NODE_NAME)" if not node_name else _no_access(environment, folder)
    if reason is not None:
        log.info("no Kubernetes Events will be posted: %s", reason)
        return EventPoster(None, node_name, component)

    def open_kube() -> "Kube":
        from nodelib.kube import Kube, in_cluster_access

        return Kube(in_cluster_access(environment, folder))

    return EventPoster(open_kube, node_name, component)


def _no_access(environment: Mapping[str, str], folder: str) -> str | None:
    """Why there is none; found out without the import that only an access is worth."""
    if not environment.get("KUBERNETES_SERVICE_HOST"):
        return "not in a pod"
    return None if Path(folder, "token").exists() else "this pod has no service account token"


def _attempt(kube: "Kube", body: Mapping[str, object]) -> "ApiError | None":
    """What hinders the Event; None once the server has it."""
    from nodelib.kube import UNREACHABLE, ApiError

    try:
        kube.post(_EVENTS, body, _ANSWER_S)
    except ApiError as error:
        # 409: an earlier attempt arrived and only its answer did not.
        return None if error.status == 409 else error
    except (OSError, ValueError) as error:  # a token that no header can hold, say, until the kubelet rotates it
        return ApiError(UNREACHABLE, f"the request could not be made ({error})")
    return None


def _is_passing(error: "ApiError") -> bool:
    """Whether the same request may succeed later: no answer, a token being rotated, too many requests, a failure."""
    return error.status in (0, 401, 408, 429) or error.status >= 500


def _growing(first_s: float) -> Iterator[float]:
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(pause_s * 2, _LONGEST_RETRY_S)


def _shortened(message: str) -> str:
    """*message* within the server's limit, which counts bytes; a name that is no UTF-8 gets question marks."""
    data = message.encode(errors="replace")
    if len(data) <= _MAX_MESSAGE_BYTES:
        return data.decode()
    return data[: _MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "..."
