"""A plain client for trying the simulated API server, with nothing of the agents' own in it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

import urllib3

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.patch import JsonObject, JsonValue, section, text

PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: JsonObject
    headers: Mapping[str, str]

    @property
    def reason(self) -> str:
        return text(self.body, "reason")

    @property
    def version(self) -> str:
        return text(self.body, "metadata", "resourceVersion")

    @property
    def labels(self) -> JsonObject:
        return section(self.body, "metadata", "labels")

    @property
    def names(self) -> list[str]:
        """Of the items of a list."""
        items = self.body["items"]
        return [text(item, "metadata", "name") for item in items] if isinstance(items, list) else []


@dataclass(frozen=True, slots=True)
class WatchEvent:
    type: str
    object: JsonObject

    @classmethod
    def parse(cls, line: bytes) -> Self:
        event: JsonObject = json.loads(line)
        return cls(text(event, "type"), section(event, "object"))

    @property
    def labels(self) -> JsonObject:
        return section(self.object, "metadata", "labels")

    @property
    def version(self) -> str:
        return text(self.object, "metadata", "resourceVersion")

    @property
    def is_too_old(self) -> bool:
        return self.type == "ERROR" and (self.object["code"], self.object["reason"]) == (410, "Expired")


class Client:
    def __init__(self, api: KubeApi) -> None:
        self.token = api.token
        self.node = f"/api/v1/nodes/{api.node}"
        url = urlsplit(api.url)
        self._pool = urllib3.HTTPConnectionPool(
            url.hostname or "", url.port, maxsize=4, retries=False, timeout=PATIENCE_S
        )

    def close(self) -> None:
        self._pool.close()

    def _headers(self, content_type: str = "") -> dict[str, str]:
        headers = {"Content-Type": content_type} if content_type else {}
        return headers | ({"Authorization": f"Bearer {self.token}"} if self.token else {})

    def call(self, method: str, path: str, body: JsonValue | bytes = None, content_type: str = "") -> Response:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self._pool.request(
            method,
            path,
            body=None if body is None else sent,
            headers=self._headers(content_type),
        )
        return Response(response.status, json.loads(response.data), response.headers)

    def get(self, path: str, **query: str) -> Response:
        return self.call("GET", f"{path}?{urlencode(query)}")

    def post(self, path: str, body: JsonValue | bytes) -> Response:
        return self.call("POST", path, body, "application/json")

    def merge_patch(self, patch: JsonValue | bytes) -> Response:
        return self.call("PATCH", self.node, patch, "application/merge-patch+json")

    def merge_labels(self, **labels: str | None) -> Response:
        return self.merge_patch({"metadata": {"labels": dict(labels)}})

    def json_patch(self, *operations: JsonValue) -> Response:
        return self.call("PATCH", self.node, list(operations), "application/json-patch+json")

    @contextmanager
    def watch(self, path: str = "/api/v1/nodes", **query: str) -> Iterator[Iterator[WatchEvent]]:
        """Its events; they end with the watch, or in an error where the connection breaks."""
        fields = urlencode({"watch": "true", **query})
        response = self._pool.request("GET", f"{path}?{fields}", headers=self._headers(), preload_content=False)
        try:
            yield self._events(response)
        finally:
            response.close()

    @staticmethod
    def _events(response: urllib3.BaseHTTPResponse) -> Iterator[WatchEvent]:
        rest = b""
        for chunk in response.stream():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(WatchEvent.parse, lines)
