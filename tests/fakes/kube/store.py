"""The objects of a simulated cluster, their versions, their bounded history, and who watches them."""

import json
import os
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

from tests.fakes.kube.patch import JsonObject, section, text
from tests.fakes.kube.rules import ApiError, already_exists, not_found

FIRST_VERSION = 1000
CREATED_AT = "2026-01-01T00:00:00Z"  # of every object: nobody here reads ages, and runs stay equal

_REQUIREMENT = re.compile(r"(?P<absent>!)?(?P<key>[^!=,()\s]+)(?:(?P<op>==|=|!=)(?P<value>[^!=,]*))?")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object, and the fields that its lists and watches can be selected by."""

    resource: str
    kind: str
    api_version: str
    is_namespaced: bool
    fields: frozenset[str]


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    value: str | None  # None asks only whether the key is there
    is_wanted: bool

    def holds(self, found: str | None) -> bool:
        meets = found is not None if self.value is None else found == self.value
        return meets is self.is_wanted


@dataclass(frozen=True, slots=True)
class Selector:
    """Which objects of a kind a list or a watch is about."""

    kind: Kind
    namespace: str = ""  # empty: all namespaces
    fields: tuple[Requirement, ...] = ()
    labels: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, kind: Kind, namespace: str, query: Mapping[str, str]) -> Self:
        fields = _parse_requirements(query.get("fieldSelector", ""))
        for requirement in fields:
            if requirement.value is None or requirement.key not in kind.fields:
                raise ApiError(400, f"field label not supported: {requirement.key}")
        return cls(kind, namespace, fields, _parse_requirements(query.get("labelSelector", "")))

    def matches(self, found: JsonObject | None) -> bool:
        if found is None:
            return False
        labels = section(found, "metadata", "labels")
        return (
            self.namespace in ("", text(found, "metadata", "namespace"))
            and all(field.holds(text(found, *field.key.split("."))) for field in self.fields)
            and all(label.holds(text(labels, label.key) if label.key in labels else None) for label in self.labels)
        )


def _parse_requirements(selector: str) -> tuple[Requirement, ...]:
    """Equality and existence; the set-based operators (`in`, `notin`) are not simulated."""
    requirements = []
    for term in filter(None, selector.split(",")):
        found = _REQUIREMENT.fullmatch(term.strip())
        if found is None or (found["absent"] and found["op"]):
            raise ApiError(400, f"unable to parse requirement: {term}")
        is_wanted = not found["absent"] and found["op"] != "!="
        requirements.append(Requirement(found["key"], found["value"], is_wanted))
    return tuple(requirements)


@dataclass(frozen=True, slots=True)
class Change:
    kind: Kind
    version: int
    before: JsonObject | None
    after: JsonObject | None


class WatchState(Enum):
    OPEN = auto()
    ENDED = auto()  # the client is told: the last chunk is sent
    CUT = auto()  # the client finds its connection closed


class Watch:
    """Events on their way to one client. Closed by the thread that sends them."""

    def __init__(self, selector: Selector, *, wants_bookmarks: bool) -> None:
        self.state = WatchState.OPEN
        self._selector = selector
        self._wants_bookmarks = wants_bookmarks
        self._lines: deque[bytes] = deque()
        # A descriptor and not a condition, so that one poll waits for events and for the client's
        # hang-up, and an abandoned watch leaves no thread behind.
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._wake

    def take(self) -> list[bytes]:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return []
        return [self._lines.popleft() for _ in range(len(self._lines))]

    def finish(self, state: WatchState) -> None:
        self.state = state
        os.eventfd_write(self._wake, 1)

    def push(self, event: str, item: JsonObject) -> None:
        self._lines.append(json.dumps({"type": event, "object": item}).encode() + b"\n")
        os.eventfd_write(self._wake, 1)

    def push_change(self, change: Change) -> None:
        """What a change is to this watch: an object that leaves the selection is deleted to it."""
        if change.kind is not self._selector.kind:
            return
        was_in, is_in = map(self._selector.matches, (change.before, change.after))
        if is_in and change.after is not None:
            self.push("MODIFIED" if was_in else "ADDED", change.after)
        elif was_in and change.before is not None:
            self.push("DELETED", _with_version(change.before, change.version))

    def push_bookmark(self, version: int) -> None:
        kind = self._selector.kind
        metadata: JsonObject = {"resourceVersion": str(version), "creationTimestamp": None}
        if self._wants_bookmarks:
            self.push(
                "BOOKMARK",
                {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata},
            )

    def close(self) -> None:
        os.close(self._wake)


def _with_version(item: JsonObject, version: int) -> JsonObject:
    metadata = section(item, "metadata") | {"resourceVersion": str(version)}
    return item | {"metadata": metadata}


class Store:
    """Objects are never changed once stored, so they are handed out as they are.

    `changed` is notified after everything that a test may wait for; its lock is the store's.
    """

    def __init__(self, history_limit: int = 1000) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = FIRST_VERSION
        self.watches: set[Watch] = set()
        # Called under the lock after each change; they may write in turn.
        self.listeners: list[Callable[[Change], None]] = []
        self._objects: dict[tuple[Kind, str, str], JsonObject] = {}
        self._history: deque[Change] = deque()
        self._history_limit = history_limit
        self._forgotten = FIRST_VERSION  # changes up to this version are gone

    def find(self, kind: Kind, namespace: str, name: str) -> JsonObject:
        with self.lock:
            try:
                return self._objects[kind, namespace, name]
            except KeyError:
                raise not_found(kind.resource, name) from None

    def select(self, selector: Selector) -> tuple[list[JsonObject], int]:
        """The matching objects, oldest first, and the version that a watch can start from."""
        with self.lock:
            found = [
                item for (kind, _, _), item in self._objects.items() if kind is selector.kind and selector.matches(item)
            ]
            return found, self.version

    def create(self, kind: Kind, item: JsonObject) -> JsonObject:
        namespace, name = text(item, "metadata", "namespace"), text(item, "metadata", "name")
        with self.lock:
            if (kind, namespace, name) in self._objects:
                raise already_exists(kind.resource, name)
            unique = f"{kind.resource}/{namespace}/{name}/{self.version}"
            metadata = section(item, "metadata") | {
                "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, unique)),
                "creationTimestamp": CREATED_AT,
            }
            head: JsonObject = {"kind": kind.kind, "apiVersion": kind.api_version}
            return self._write(kind, (namespace, name), None, head | item | {"metadata": metadata})

    def replace(self, kind: Kind, item: JsonObject) -> JsonObject:
        """An equal object is not written: no version, no event (etcd3 store, GuaranteedUpdate)."""
        namespace, name = text(item, "metadata", "namespace"), text(item, "metadata", "name")
        with self.lock:
            before = self.find(kind, namespace, name)
            if item == before:
                return before
            return self._write(kind, (namespace, name), before, item)

    def _write(self, kind: Kind, place: tuple[str, str], before: JsonObject | None, item: JsonObject) -> JsonObject:
        self.version += 1
        after = _with_version(item, self.version)
        self._objects[kind, *place] = after
        self._publish(Change(kind, self.version, before, after))
        return after

    def remove(self, kind: Kind, namespace: str, name: str) -> None:
        with self.lock:
            before = self.find(kind, namespace, name)
            del self._objects[kind, namespace, name]
            self.version += 1
            self._publish(Change(kind, self.version, before, None))

    def _publish(self, change: Change) -> None:
        self._history.append(change)
        while len(self._history) > self._history_limit:
            self._forgotten = self._history.popleft().version
        for watch in self.watches:
            watch.push_change(change)
        self.changed.notify_all()
        for listener in self.listeners:
            listener(change)

    def pass_over(self) -> int:
        """A version used up by a write to something that nobody here looks at."""
        with self.lock:
            self.version += 1
            return self.version

    def forget_history(self) -> None:
        with self.lock:
            self._history.clear()
            self._forgotten = self.version

    def open_watch(self, selector: Selector, since: int, *, wants_bookmarks: bool) -> Watch:
        """A watch with all changes after version `since`, or from 0 with all objects there are.

        One from before the history ends at once with an ERROR event, not with a status code, as
        the API server's watch cache does.
        """
        with self.lock:
            watch = Watch(selector, wants_bookmarks=wants_bookmarks)
            if since == 0:
                for item in self.select(selector)[0]:
                    watch.push("ADDED", item)
            elif since < self._forgotten:
                why = f"too old resource version: {since} ({self._forgotten})"
                watch.push("ERROR", ApiError(410, why).status)
                watch.finish(WatchState.ENDED)
                return watch
            else:
                for change in self._history:
                    if change.version > since:
                        watch.push_change(change)
            self.watches.add(watch)
            self.changed.notify_all()
            return watch

    def close_watch(self, watch: Watch) -> None:
        with self.lock:
            self.watches.discard(watch)
            watch.close()
            self.changed.notify_all()

    def cut_watches(self) -> None:
        with self.lock:
            for watch in self.watches:
                watch.finish(WatchState.CUT)
            self.watches.clear()
            self.changed.notify_all()

    def send_bookmarks(self) -> None:
        with self.lock:
            for watch in self.watches:
                watch.push_bookmark(self.version)
