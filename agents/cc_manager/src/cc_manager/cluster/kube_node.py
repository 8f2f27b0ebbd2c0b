"""The node object in the API server: read, patched, watched."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from cc_manager.cluster.labels import DEVICES, FORGOTTEN, MESSAGE, MODE, READY, STATE, NodeView, Publication
from cc_manager.cluster.operands import PREFIX, LabelChange, json_patch
from nodelib.kube import JSON_PATCH, MERGE_PATCH, UNREACHABLE, ApiError, Kube, Watch

log = logging.getLogger(__name__)

WATCH_S = 300.0
_EXPIRED = 410
_ATTEMPTS = 5
_OWN_VERSIONS = 64
"""Remembered states that we wrote ourselves: more than one round writes."""
_TEST_FAILED = (409, 422)
"""What a JSON patch is answered whose `test` fails: 422 by the server's library, 409 if it lost a race itself."""
_RETRY_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class KubeNode:
    """The node that we run on, as the API server has it."""

    def __init__(self, kube: Kube, name: str, retry_s: Sequence[float] = _RETRY_S) -> None:
        self._kube = kube
        self._retry_s = retry_s
        self._name = name
        self._path = f"/api/v1/nodes/{name}"
        self._version = ""
        # Held while a patch is under way: its event may come before its answer, and must not be taken for news.
        self._writing = threading.Lock()
        self._known: NodeView | None = None
        self._ours: deque[str] = deque(maxlen=_OWN_VERSIONS)
        self._open: Watch | None = None

    def view(self) -> NodeView:
        """Its labels and annotations now. Raises ApiError."""
        self._known = _view(self._kube.get(self._path))
        return self._known

    def publish(self, publication: Publication, seen: NodeView) -> NodeView:
        """Make the node say *publication*, by a merge patch of what differs from *seen*; its metadata afterwards.

        Raises ApiError.
        """
        patch = publication.patch(seen)
        if patch is not None:
            seen = self._patch(patch)
        return seen

    def change_labels(self, plan: Callable[[Mapping[str, str]], Sequence[LabelChange]], seen: NodeView) -> NodeView:
        """Make the changes that *plan* wants of labels which others write too; the node's metadata afterwards.

        All of them or none, and only if each label still is what *plan* saw: else it is asked again with what is there
        now. Raises ApiError.
        """
        for _ in range(_ATTEMPTS):
            if not (changes := plan(seen.labels)):
                return seen
            for change in changes:
                log.info("%s", change)
            try:
                seen = self._patch(json_patch(changes), JSON_PATCH)
            except ApiError as error:
                if error.status not in _TEST_FAILED:
                    raise
                seen = self.view()
        if plan(seen.labels):
            raise ApiError(409, f"labels of node {self._name} are changed by somebody else all the time")
        return seen

    def forget(self) -> None:
        """Take from the node all that we published, for an uninstall. Raises ApiError."""
        self._kube.patch(self._path, dict(FORGOTTEN))

    def watch(self, on_change: Callable[[str], None], stop: threading.Event) -> None:
        """Call *on_change* when labels or annotations become other than we know, until *stop*; no failure ends it."""
        failures = 0
        while not stop.is_set():
            begin = time.monotonic()
            try:
                for view in self._views(stop):
                    if self._is_news(view):
                        on_change(f"labels of node {self._name}")
            except ApiError as error:
                if stop.is_set():
                    return
                self._version = ""  # list anew: only then is it sure that nothing was missed
                if time.monotonic() - begin > self._retry_s[-1]:
                    failures = 0  # it went well for a while; a list alone says nothing, the watch may be refused
                pause_s = self._pause_s(error, failures)
                failures += 1
                log.warning("%s; the label is watched again in %g s", error, pause_s)
                stop.wait(pause_s)

    def stop_watching(self) -> None:
        """End a watch that is open; its thread is blocked in a read."""
        if (watch := self._open) is not None:
            watch.cut()

    def _patch(self, patch: object, content_type: str = MERGE_PATCH) -> NodeView:
        with self._writing:
            self._known = _view(self._kube.patch(self._path, patch, content_type))
            self._ours.append(self._known.version)
            return self._known

    def _is_news(self, view: NodeView) -> bool:
        """Whether somebody else wrote what concerns us. Events lag: one may tell a state of ours that is past."""
        with self._writing:
            if view.version and view.version in self._ours:
                return False
            return self._known is None or _concern(view) != _concern(self._known)

    def _pause_s(self, error: ApiError, failures: int) -> float:
        """How long to wait after so many failures in a row before this one."""
        # 410: the version is older than the server remembers; nothing is wrong, unless the next list does not mend it.
        if error.status == _EXPIRED and not failures:
            return 0.01
        return error.retry_after_s or self._retry_s[min(failures, len(self._retry_s) - 1)]

    def _views(self, stop: threading.Event) -> Iterator[NodeView]:
        """The node now where it was not listed yet, then at each change, until the server ends the watch."""
        query = {"fieldSelector": f"metadata.name={self._name}"}
        if not self._version:
            listed = self._kube.get("/api/v1/nodes", query)
            self._version = _text(listed, "metadata", "resourceVersion")
            items = listed.get("items")
            if isinstance(items, list) and items:
                yield _view(items[0])
        with self._kube.watch("/api/v1/nodes", {**query, "resourceVersion": self._version}, WATCH_S) as watch:
            self._open = watch
            try:
                if stop.is_set():
                    return  # whoever stops us may have looked for an open watch before there was one
                for event in watch:
                    if (view := self._take(event)) is not None:
                        yield view
            finally:
                self._open = None

    def _take(self, event: Mapping[str, object]) -> NodeView | None:
        """The node that *event* carries, None for a bookmark. Raises ApiError for an error event."""
        node = event.get("object")
        if not isinstance(node, dict):
            raise ApiError(UNREACHABLE, "the API server sent a watch event without an object")
        if event.get("type") == "ERROR":
            code = node.get("code")
            status = code if isinstance(code, int) else UNREACHABLE
            raise ApiError(status, f"the watch ended ({node.get('message', 'no reason given')})")
        self._version = _text(node, "metadata", "resourceVersion") or self._version
        return None if event.get("type") == "BOOKMARK" else _view(node)


def _concern(view: NodeView) -> tuple[dict[str, str], dict[str, str]]:
    """What of *view* can change what we do; a node's other labels change often."""
    labels = {key: value for key, value in view.labels.items() if key in (MODE, STATE, READY) or key.startswith(PREFIX)}
    return labels, {key: value for key, value in view.annotations.items() if key in (MESSAGE, DEVICES)}


def _text(document: Mapping[str, object], *keys: str) -> str:
    value: object = document
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _view(node: object) -> NodeView:
    metadata = node.get("metadata") if isinstance(node, dict) else None
    if not isinstance(metadata, dict):
        raise ApiError(UNREACHABLE, "the API server answered with a node that has no metadata")
    return NodeView(
        _texts(metadata.get("labels")), _texts(metadata.get("annotations")), _text(metadata, "resourceVersion")
    )


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()} if isinstance(value, dict) else {}
