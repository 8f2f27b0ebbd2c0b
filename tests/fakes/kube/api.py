"""A simulated Kubernetes API server for one node, over real HTTP, and what a test can do to it."""

import socket
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import TracebackType
from typing import Self

from tests.fakes.kube.cluster import NODES, Budget, Cluster
from tests.fakes.kube.faults import Drop, Faults, answer_with
from tests.fakes.kube.http import Answer, Call, HangUp, HttpServer, Reply, Stream
from tests.fakes.kube.patch import JsonObject, apply_merge_patch
from tests.fakes.kube.record import Event, NodeState, Request
from tests.fakes.kube.rest import EVENTS, Rest, Target
from tests.fakes.kube.roles import CC_MANAGER_ROLE, Right, allows
from tests.fakes.kube.rules import ApiError, invalid, label_problems
from tests.fakes.kube.store import Change, Selector, Store

USER = "system:serviceaccount:gpu-operator:agent"


class KubeApi:
    """Serves while it is entered, or from `start` to `stop`; both may repeat, on the same port.

    What a hook or the server itself raised ends `wait_until` and leaves with `close`, so that an
    invariant that broke in the server's thread fails the test.
    """

    def __init__(
        self,
        node: str = "node-1",
        labels: Mapping[str, str] | None = None,
        *,
        annotations: Mapping[str, str] | None = None,
        token: str | None = "first-token",
        bookmark_period_s: float = 60.0,  # the API server's own
        history_limit: int = 1000,
    ) -> None:
        self.node = node
        self.token = token  # the only one taken; None takes every client. May be set at any time
        self.allow: set[Right] = set(CC_MANAGER_ROLE)
        self.roles: dict[str, frozenset[Right]] = {}  # of further clients, by their token
        self.on_write: list[Callable[[NodeState], None]] = []  # called under the store's lock
        self.faults = Faults()
        self.failures: list[BaseException] = []
        self.store = Store(history_limit)
        self.cluster = Cluster(self.store, node)
        self.rest = Rest(self.store, bookmark_period_s, self.cluster)
        self._requests: list[Request] = []
        self._history: list[NodeState] = []
        self._port_holder: socket.socket | None = None
        self._server: HttpServer | None = None
        self.store.listeners += [self._note_write, self.cluster.note_change]
        self.add_node(labels, annotations=annotations)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        if self._port_holder is None:
            raise RuntimeError("the API server was never started")
        return f"http://127.0.0.1:{self._port_holder.getsockname()[1]}"

    def start(self) -> None:
        if self._server is not None:
            raise RuntimeError("the API server is already started")
        if self._port_holder is None:
            # Bound and never listening: it refuses clients while the server is away, and keeps
            # others, such as a client's own outgoing end, from being given the port meanwhile.
            self._port_holder = socket.socket()
            self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._port_holder.bind(("127.0.0.1", 0))
        else:
            # A new API server fills its watch cache with what is there now, not with what was.
            self.store.forget_history()
        self._server = HttpServer(self._port_holder.getsockname()[1], self)

    def stop(self) -> None:
        """Closes every connection, watches among them, and returns when all threads have ended.

        Not for hooks: they run in one of those threads.
        """
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        self.stop()
        if self._port_holder is not None:
            self._port_holder.close()
            self._port_holder = None
        if self.failures:
            raise self.failures[0]

    # What the cluster and its administrator do.

    def add_node(self, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None) -> None:
        metadata: JsonObject = {"name": self.node}
        if labels:
            metadata["labels"] = dict(labels)
        if problems := label_problems(metadata.get("labels")):
            raise invalid("Node", self.node, problems)
        if annotations:
            metadata["annotations"] = dict(annotations)
        self.store.create(NODES, {"metadata": metadata, "spec": {}, "status": {}})

    def remove_node(self) -> None:
        self.store.remove(NODES, "", self.node)

    def set_label(self, key: str, value: str | None) -> None:
        self.patch_node({"metadata": {"labels": {key: value}}})

    def patch_node(self, patch: JsonObject) -> None:
        """A merge patch by somebody else: neither authorized nor logged, but validated."""
        self.rest.patch_node(self.node, partial(apply_merge_patch, patch=patch))

    def add_pod(self, name: str, namespace: str, labels: Mapping[str, str], *, node: str | None = None) -> None:
        self.cluster.add_pod(name, namespace, labels, node=node)

    def add_budget(self, namespace: str, labels: Mapping[str, str], *, allowed: int) -> Budget:
        """How many pods with these labels may be evicted; change its `allowed` at any time."""
        self.cluster.budgets.append(Budget(namespace, labels, allowed))
        return self.cluster.budgets[-1]

    def remove_pod(self, name: str, namespace: str) -> None:
        self.cluster.end_pod(namespace, name)

    def compact(self) -> None:
        """Makes every version that a client can know too old to start a watch from."""
        with self.store.lock:
            self.store.pass_over()
            self.store.forget_history()

    def send_bookmarks(self) -> None:
        """At once, with a version that no event has told: as after writes to other objects."""
        with self.store.lock:
            self.store.pass_over()
            self.store.send_bookmarks()

    def cut_watches(self) -> None:
        self.store.cut_watches()

    # What a test looks at.

    @property
    def requests(self) -> list[Request]:
        with self.store.lock:
            return list(self._requests)

    def forget_requests(self) -> None:
        """And the node's history: a long test keeps no account of all of it."""
        with self.store.lock:
            self._requests.clear()
            self._history.clear()

    @property
    def state(self) -> NodeState:
        return NodeState.of(self.store.find(NODES, "", self.node))

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.state.labels)

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.state.annotations)

    @property
    def history(self) -> list[NodeState]:
        """The node after each write, from its creation on."""
        with self.store.lock:
            return list(self._history)

    def history_of_labels(self, key: str) -> list[str | None]:
        """The label's values in the order of writes, each once for as long as it stayed."""
        values: list[str | None] = []
        for state in self.history:
            value = state.labels.get(key)
            if not values or values[-1] != value:
                values.append(value)
        return values

    @property
    def events(self) -> list[Event]:
        return [Event.of(event) for event in self.store.select(Selector(EVENTS))[0]]

    @property
    def open_watches(self) -> int:
        with self.store.lock:
            return len(self.store.watches)

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Looks again after every write, request, and watch that opens or ends."""
        with self.store.changed:
            is_met = self.store.changed.wait_for(lambda: self.failures or condition(), timeout_s)
            if self.failures:
                raise self.failures[0]
            if not is_met:
                raise TimeoutError(f"the API server did not see it within {timeout_s} s")

    # What the HTTP server calls.

    def reply(self, call: Call) -> Reply:
        target = Target.of(call)
        fault = self.faults.take(target)
        if fault is None or fault == Drop(is_carried_out=True):
            reply = self._answer(target, call)
        else:
            reply = answer_with(fault)
        self._log(target, call, reply)
        if fault is None:
            return reply
        if isinstance(reply, Stream):
            self.store.close_watch(reply.watch)
        return HangUp() if isinstance(fault, Drop) else reply

    def _answer(self, target: Target, call: Call) -> Reply:
        try:
            self._authorize(target, call)
            if target.resource == "selfsubjectaccessreviews":
                return self.rest.review(self.rights_of(call), call)
            return self.rest.reply(target, call)
        except ApiError as error:
            return Answer.of(error.code, error.status)

    def rights_of(self, call: Call) -> Collection[Right]:
        """What the client of *call* may do. Raises ApiError for one that nobody knows."""
        token = call.authorization.removeprefix("Bearer ")
        if token in self.roles:
            return self.roles[token]
        if self.token is not None and token != self.token:
            raise ApiError(401, "Unauthorized")
        return self.allow

    def _authorize(self, target: Target, call: Call) -> None:
        if not allows(self.rights_of(call), target.verb, target.resource, target.namespace):
            raise ApiError(
                403,
                f'{target.resource} "{target.name}" is forbidden: User "{USER}" cannot'
                f' {target.verb} resource "{target.resource}" in namespace "{target.namespace}"',
                details={"name": target.name, "kind": target.resource},
            )

    def _log(self, target: Target, call: Call, reply: Reply) -> None:
        with self.store.changed:
            self._requests.append(Request.of(target, call, reply))
            self.store.changed.notify_all()

    def _note_write(self, change: Change) -> None:
        if change.kind is not NODES or change.after is None:
            return
        state = NodeState.of(change.after)
        self._history.append(state)
        for hook in self.on_write:
            hook(state)
