"""What a test reads about a simulated API server: requests, states of the node, Events."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

from tests.fakes.kube.http import Answer, Call, HangUp, Reply, Stream
from tests.fakes.kube.patch import JsonObject, section, text
from tests.fakes.kube.rest import Target


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked for, in the words of RBAC, and how it was answered."""

    verb: str
    resource: str  # empty for a path outside the API, which is then in `name`
    namespace: str
    name: str
    content_type: str
    body: bytes
    status: int  # 0: the connection was dropped before anything was done
    query: Mapping[str, str]

    @classmethod
    def of(cls, target: Target, call: Call, reply: Reply) -> Self:
        match reply:
            case Answer(status):
                pass
            case Stream():
                status = 200
            case HangUp():
                status = 0
        return cls(
            target.verb,
            target.resource,
            target.namespace,
            target.name,
            call.content_type,
            call.body,
            status,
            MappingProxyType(call.query),
        )


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node as one write left it."""

    version: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @classmethod
    def of(cls, node: JsonObject) -> Self:
        return cls(
            version=int(text(node, "metadata", "resourceVersion")),
            labels=MappingProxyType(_strings(section(node, "metadata", "labels"))),
            annotations=MappingProxyType(_strings(section(node, "metadata", "annotations"))),
        )


@dataclass(frozen=True, slots=True)
class Event:
    namespace: str
    type: str
    reason: str
    message: str
    about: str  # kind/name of the involved object
    body: JsonObject

    @classmethod
    def of(cls, event: JsonObject) -> Self:
        return cls(
            namespace=text(event, "metadata", "namespace"),
            type=text(event, "type"),
            reason=text(event, "reason"),
            message=text(event, "message"),
            about="/".join(text(event, "involvedObject", part) for part in ("kind", "name")),
            body=event,
        )


def _strings(entries: JsonObject) -> dict[str, str]:
    return {key: value for key, value in entries.items() if isinstance(value, str)}
