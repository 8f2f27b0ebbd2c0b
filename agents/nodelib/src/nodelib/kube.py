"""The one door to the Kubernetes API: a few HTTPS calls with JSON, without the 44 MiB of the full client.

Paths, verbs and patch types: Kubernetes API conventions; in-cluster access: the service account volume.
"""

import json
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import urllib3

from nodelib.errors import NodeError, NotSupported

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
UNREACHABLE = 0
"""The status of an ApiError when no answer came at all."""

_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""The pod's token and certificate authority, in the container itself; read again for each request."""
_CONNECT_S = 5.0
_ANSWER_S = 30.0

Json = dict[str, object]


class ApiError(NodeError):
    """The API server refused, or could not be reached (`status` UNREACHABLE)."""

    def __init__(self, status: int, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """Where the API server is and who we are to it."""

    url: str
    ca_file: str | None = None
    token_file: str | None = None
    """Read at each request: the kubelet rotates it."""
    token: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True


def in_cluster_access(environment: Mapping[str, str] = os.environ, folder: str = _SERVICE_ACCOUNT) -> ApiAccess:
    """The access that a pod has. Raises NotSupported outside of one."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not Path(folder, "token").exists():
        raise NotSupported("not in a pod with a service account: give --kubeconfig, or run the verb without Kubernetes")
    host = f"[{host}]" if ":" in host else host
    return ApiAccess(f"https://{host}:{port}", ca_file=f"{folder}/ca.crt", token_file=f"{folder}/token")


class Kube:
    """Calls to one API server. Every failure is an ApiError with the status and the server's own words."""

    def __init__(self, access: ApiAccess) -> None:
        self._access = access
        self._pool = urllib3.PoolManager(
            cert_reqs="CERT_REQUIRED" if access.verify else "CERT_NONE",
            ca_certs=access.ca_file,
            cert_file=access.cert_file,
            key_file=access.key_file,
            retries=False,
            maxsize=2,
        )

    def close(self) -> None:
        self._pool.clear()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        return self._call("GET", _with_query(path, query or {}))

    def patch(self, path: str, body: object, content_type: str = MERGE_PATCH) -> Json:
        return self._call("PATCH", path, body=body, content_type=content_type)

    def post(self, path: str, body: object, timeout_s: float = _ANSWER_S) -> Json:
        return self._call("POST", path, body=body, content_type="application/json", timeout_s=timeout_s)

    @contextmanager
    def watch(self, path: str, query: Mapping[str, str], timeout_s: float) -> Iterator["Watch"]:
        """The events of one watch, which the server ends after *timeout_s*."""
        seconds = str(int(timeout_s))
        fields = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
        # A little more patience than the server was asked for: silence beyond that means the connection is dead.
        response = self._request("GET", _with_query(path, fields), timeout_s=timeout_s + 15, stream=True)
        try:
            yield Watch(response, path)
        finally:
            response.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str | None = None,
        timeout_s: float = _ANSWER_S,
    ) -> Json:
        response = self._request(method, path, body=body, content_type=content_type, timeout_s=timeout_s)
        return _object(response.data, path)

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str | None = None,
        timeout_s: float = _ANSWER_S,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "cgpu-agents"}
        if content_type:
            headers["Content-Type"] = content_type
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        try:
            response = self._pool.request(
                method,
                f"{self._access.url}{path}",
                body=json.dumps(body).encode() if body is not None else None,
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout_s),
                preload_content=not stream,
            )
            if response.status >= 400:
                raise _refusal(response, method, path)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(
                UNREACHABLE, f"no answer from the API server at {self._access.url} ({_words(error)})"
            ) from error
        return response

    def _token(self) -> str | None:
        if self._access.token_file is None:
            return self._access.token
        try:
            return Path(self._access.token_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ApiError(UNREACHABLE, f"cannot read the token {self._access.token_file} ({reason})") from error


class Watch:
    """An open watch: iterate for its events, `cut` it from another thread."""

    def __init__(self, response: urllib3.BaseHTTPResponse, path: str) -> None:
        self._response = response
        self._path = path

    def __iter__(self) -> Iterator[Json]:
        """Each event as the server sent it; ends with the watch. Raises ApiError if the connection breaks."""
        rest = b""
        try:
            for chunk in self._response.stream():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _object(line, self._path)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(UNREACHABLE, f"the watch of {self._path} broke ({_words(error)})") from error

    def cut(self) -> None:
        """End the watch although its reader is blocked; one that has ended meanwhile is none to cut."""
        with suppress(RuntimeError, ValueError, OSError):
            self._response.shutdown()


def _with_query(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def _object(data: bytes, path: str) -> Json:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ApiError(UNREACHABLE, f"the API server's answer to {path} is no JSON object: {data[:60]!r}")
    return value


def _refusal(response: urllib3.BaseHTTPResponse, method: str, path: str) -> ApiError:
    try:
        message = str(json.loads(response.data)["message"])
    except (ValueError, KeyError, TypeError):
        message = response.reason or "no reason given"
    retry_after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status,
        f"the API server refused {method} {path}: {response.status} {message}",
        float(retry_after) if retry_after.isdigit() else None,
    )


def _words(error: Exception) -> str:
    """The last part of urllib3's message, which holds the cause without object addresses."""
    return str(error).rpartition(": ")[2] or type(error).__name__
