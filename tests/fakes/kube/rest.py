"""What the simulated API server serves: which path is which object, and what each verb does to it."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias
from urllib.parse import unquote

from tests.fakes.kube.cluster import DAEMON_SETS, NODES, PODS, Cluster
from tests.fakes.kube.http import Answer, Call, Reply, Stream
from tests.fakes.kube.patch import (
    JsonObject,
    JsonValue,
    PatchError,
    apply_json_patch,
    apply_merge_patch,
    section,
    text,
)
from tests.fakes.kube.roles import Right, review
from tests.fakes.kube.rules import ApiError, Problem, admit_node, event_problems, invalid
from tests.fakes.kube.store import Kind, Selector, Store

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"

EVENTS = Kind(
    "events",
    "Event",
    "v1",
    True,
    frozenset({"metadata.name", "metadata.namespace"})
    | {"reason", "type", "involvedObject.kind", "involvedObject.name"},
)
KINDS = (NODES, PODS, DAEMON_SETS, EVENTS)
REVIEWS = "authorization.k8s.io/v1"

# The API server picks 30 to 60 minutes for a watch that names no end (--min-request-timeout).
DEFAULT_WATCH_TIMEOUT_S = 1800.0

# Generated names avoid vowels, as apimachinery's do; here they count up, so that runs stay equal.
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SUFFIX_LENGTH = 5


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about, in the words of RBAC. `resource` is empty for a path outside the
    API (then `name` is the path), and "pods/eviction" for a subresource.
    """

    verb: str
    api_version: str
    resource: str
    namespace: str
    name: str

    @classmethod
    def of(cls, call: Call) -> "Target":
        parts = [unquote(part) for part in call.path.strip("/").split("/")]
        match parts:
            case ["api", version, *rest] if rest:
                return cls._within(version, rest, call)
            case ["apis", group, version, *rest] if rest:
                return cls._within(f"{group}/{version}", rest, call)
        return cls(call.method.lower(), "", "", "", call.path)

    @classmethod
    def _within(cls, api_version: str, rest: list[str], call: Call) -> "Target":
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource, name = "/".join([rest[0], *rest[2:]]), rest[1] if len(rest) > 1 else ""
        verb = _verb(call, has_name=bool(name))
        if not name and verb in ("list", "watch"):
            name = _selected_name(call.query)
        return cls(verb, api_version, resource, namespace, name)


def _verb(call: Call, *, has_name: bool) -> str:
    match call.method:
        case "GET" if has_name:
            return "get"
        case "GET":
            return "watch" if call.query.get("watch", "false") not in ("false", "0") else "list"
        case "DELETE":
            return "delete" if has_name else "deletecollection"
        case method:
            return {"POST": "create", "PUT": "update", "PATCH": "patch"}[method]


def _selected_name(query: Mapping[str, str]) -> str:
    """A list of one name is authorized as that name (apiserver, RequestInfoFactory)."""
    for term in query.get("fieldSelector", "").split(","):
        key, _, value = term.partition("=")
        if key == "metadata.name":
            return value.removeprefix("=")
    return ""


Verb: TypeAlias = Callable[[Kind, Target, Call], Reply]


class Rest:
    """The verbs over a store. Whatever is served is an entry of one of its two tables."""

    def __init__(self, store: Store, bookmark_period_s: float, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster
        self._bookmark_period_s = bookmark_period_s
        self.kinds: dict[tuple[str, str], Kind] = {(k.api_version, k.resource): k for k in KINDS}
        self.verbs: dict[tuple[str, str], Verb] = {
            ("patch", "nodes"): self._patch_node,
            ("create", "events"): self._create_event,
            ("create", "pods/eviction"): self._evict,
        }
        for kind in KINDS:
            self.verbs["get", kind.resource] = self._get
            self.verbs["list", kind.resource] = self._list
            self.verbs["watch", kind.resource] = self._watch

    def review(self, rights: Collection[Right], call: Call) -> Reply:
        """What a SelfSubjectAccessReview is answered by a server that gives the client *rights*."""
        _media_type(call, "application/json", "")
        body = _parse_json(call.body)
        if not isinstance(body, dict) or (body.get("kind"), body.get("apiVersion")) != (
            "SelfSubjectAccessReview",
            REVIEWS,
        ):
            raise ApiError(400, f"the body must be one SelfSubjectAccessReview of {REVIEWS}")
        return Answer.of(201, review(rights, body))

    def reply(self, target: Target, call: Call) -> Reply:
        kind = self.kinds.get((target.api_version, target.resource.partition("/")[0]))
        if kind is None:
            raise ApiError(404, "the server could not find the requested resource")
        verb = self.verbs.get((target.verb, target.resource))
        if verb is None:
            raise ApiError(405, f"{target.verb} is not supported on {target.resource}")
        return verb(kind, target, call)

    def patch_node(self, name: str, change: Callable[[JsonObject], JsonValue]) -> JsonObject:
        with self._store.lock:
            current = self._store.find(NODES, "", name)
            try:
                wanted = change(current)
            except PatchError as error:
                # The real answer, too, does not say which operation failed.
                message = "the server rejected our request due to an error in our request"
                raise ApiError(422, message) from error
            if not isinstance(wanted, dict):
                raise invalid("Node", name, [Problem("patch", "does not lead to an object")])
            return self._store.replace(NODES, admit_node(current, wanted))

    def _get(self, kind: Kind, target: Target, call: Call) -> Reply:
        return Answer.of(200, self._store.find(kind, target.namespace, target.name))

    def _list(self, kind: Kind, target: Target, call: Call) -> Reply:
        found, version = self._store.select(Selector.parse(kind, target.namespace, call.query))
        # Items of a list do not repeat their kind.
        items: list[JsonValue] = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in found
        ]
        answer: JsonObject = {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": {"resourceVersion": str(version)},
            "items": items,
        }
        return Answer.of(200, answer)

    def _watch(self, kind: Kind, target: Target, call: Call) -> Reply:
        selector = Selector.parse(kind, target.namespace, call.query)
        since = _parse_count(call.query, "resourceVersion")
        timeout_s = _parse_count(call.query, "timeoutSeconds") or DEFAULT_WATCH_TIMEOUT_S
        wants_bookmarks = call.query.get("allowWatchBookmarks", "false") in ("true", "1")
        watch = self._store.open_watch(selector, since, wants_bookmarks=wants_bookmarks)
        return Stream(watch, timeout_s, self._bookmark_period_s)

    def _patch_node(self, kind: Kind, target: Target, call: Call) -> Reply:
        content_type = _media_type(call, MERGE_PATCH, JSON_PATCH)
        self._store.find(kind, target.namespace, target.name)
        patch = _parse_json(call.body)
        if content_type == MERGE_PATCH:
            if not isinstance(patch, dict):
                raise ApiError(400, "a merge patch must be a JSON object")
            change: Callable[[JsonObject], JsonValue] = partial(apply_merge_patch, patch=patch)
        else:
            change = partial(apply_json_patch, operations=_parse_operations(patch))
        return Answer.of(200, self.patch_node(target.name, change))

    def _evict(self, kind: Kind, target: Target, call: Call) -> Reply:
        _media_type(call, "application/json", "")
        body = _parse_json(call.body)
        if not isinstance(body, dict) or (body.get("kind"), body.get("apiVersion")) != ("Eviction", "policy/v1"):
            raise ApiError(400, "the body must be one Eviction of policy/v1")
        if text(body, "metadata", "name") != target.name:
            raise ApiError(400, "name in URL does not match name in Eviction object")
        self._cluster.evict(target.namespace, target.name, text(body, "deleteOptions", "preconditions", "uid"))
        done: JsonObject = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return Answer.of(201, done)

    def _create_event(self, kind: Kind, target: Target, call: Call) -> Reply:
        _media_type(call, "application/json", "")
        event = _parse_json(call.body)
        if not isinstance(event, dict) or (
            event.get("kind", kind.kind),
            event.get("apiVersion", kind.api_version),
        ) != (kind.kind, kind.api_version):
            raise ApiError(400, f"the body must be one {kind.kind} of {kind.api_version}")
        metadata = section(event, "metadata")
        if metadata.get("namespace", target.namespace) != target.namespace or not target.namespace:
            raise ApiError(400, "the object's namespace is not the one in the URL")
        with self._store.lock:
            name = text(metadata, "name")
            if not name and (prefix := text(metadata, "generateName")):
                name = prefix + _suffix(self._store.version)
            event = event | {
                "metadata": metadata | {"name": name, "namespace": target.namespace},
            }
            if problems := event_problems(event):
                raise invalid(kind.kind, name, problems)
            return Answer.of(201, self._store.create(kind, event))


def _media_type(call: Call, *accepted: str) -> str:
    media_type = call.content_type.partition(";")[0].strip()
    if media_type not in accepted:
        raise ApiError(415, f"the body's format is unknown; accepted: {', '.join(accepted)}")
    return media_type


def _parse_json(body: bytes) -> JsonValue:
    try:
        parsed: JsonValue = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    return parsed


def _parse_operations(patch: JsonValue) -> list[JsonObject]:
    if not isinstance(patch, list):
        raise ApiError(400, "a JSON patch must be a list of operations")
    operations = [operation for operation in patch if isinstance(operation, dict)]
    if len(operations) < len(patch):
        raise ApiError(400, "an operation of a JSON patch must be an object")
    return operations


def _parse_count(query: Mapping[str, str], name: str) -> int:
    value = query.get(name, "") or "0"
    if not (value.isascii() and value.isdecimal()):
        raise ApiError(400, f"{name} is not a number: {value}")
    return int(value)


def _suffix(number: int) -> str:
    letters = ""
    for _ in range(_SUFFIX_LENGTH):
        number, place = divmod(number, len(_SUFFIX_LETTERS))
        letters = _SUFFIX_LETTERS[place] + letters
    return letters
