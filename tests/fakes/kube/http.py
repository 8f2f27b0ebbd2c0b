"""HTTP for the simulated API server: keep-alive connections, chunked watches, and a stop that ends
them all.
"""

import json
import selectors
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from tests.fakes.kube.patch import JsonObject
from tests.fakes.kube.store import Store, Watch, WatchState


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request as it came in."""

    method: str
    path: str  # still percent-encoded
    query: dict[str, str]
    authorization: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "application/json"
    retry_after_s: int | None = None

    @classmethod
    def of(cls, status: int, body: JsonObject, retry_after_s: int | None = None) -> "Answer":
        return cls(status, json.dumps(body).encode(), retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class HangUp:
    """The connection is closed without an answer."""


@dataclass(frozen=True, slots=True)
class Stream:
    watch: Watch
    timeout_s: float
    bookmark_period_s: float


Reply: TypeAlias = Answer | HangUp | Stream


class Service(Protocol):
    """What answers the calls. An exception of its own is kept for the test to see."""

    store: Store
    failures: list[BaseException]

    def reply(self, call: Call) -> Reply: ...


class HttpServer(ThreadingHTTPServer):
    """Listens once made; `close` returns when no thread and no connection is left."""

    daemon_threads = False  # so that closing waits for every one of them
    request_queue_size = 128

    def __init__(self, port: int, service: Service) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._is_closing = False
        super().__init__(("127.0.0.1", port), _Handler)
        self._accepting = threading.Thread(target=self._accept, name=f"kube-api-{port}")
        self._accepting.start()

    def server_bind(self) -> None:
        # Past HTTPServer's own, which asks the resolver for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def _accept(self) -> None:
        """In place of serve_forever, which notices its end by polling."""
        while True:
            try:
                connection, address = self.socket.accept()
            except OSError:
                if self._is_closing:
                    return
                raise
            with self._lock:
                self._connections.add(connection)
            self.process_request(connection, address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            with self._lock:
                self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            with self.service.store.changed:
                self.service.failures.append(error)
                self.service.store.changed.notify_all()

    def close(self) -> None:
        self._is_closing = True
        self.socket.shutdown(socket.SHUT_RDWR)  # on Linux this ends a blocked accept
        self._accepting.join()
        with self._lock:
            for connection in self._connections:
                _shut(connection)
        self.server_close()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the client was faster


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    server: HttpServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is inherited)
        """Nothing: the service keeps the log."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        call = Call(
            method=self.command,
            path=url.path,
            query=dict(parse_qsl(url.query, keep_blank_values=True)),
            authorization=self.headers.get("Authorization", ""),
            content_type=self.headers.get("Content-Type", ""),
            body=self.rfile.read(int(self.headers.get("Content-Length", "0"))),
        )
        match self.server.service.reply(call):
            case Answer() as answer:
                self._send_answer(answer)
            case HangUp():
                self.close_connection = True
            case Stream() as stream:
                try:
                    self._send_stream(stream)
                finally:
                    self.server.service.store.close_watch(stream.watch)

    # http.server finds the methods by these names, hence the ignores.
    do_GET = _serve  # noqa: N815
    do_POST = _serve  # noqa: N815
    do_PUT = _serve  # noqa: N815
    do_PATCH = _serve  # noqa: N815
    do_DELETE = _serve  # noqa: N815

    def _send_answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.retry_after_s is not None:
            self.send_header("Retry-After", str(answer.retry_after_s))
        self.end_headers()
        self.wfile.write(answer.body)

    def _send_stream(self, stream: Stream) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._send_events(stream)
        if stream.watch.state is WatchState.ENDED:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def _send_events(self, stream: Stream) -> None:
        """Until the watch ends, is cut, or the client hangs up, as `close` makes it seem."""
        watch, store = stream.watch, self.server.service.store
        ends_at = time.monotonic() + stream.timeout_s
        bookmark_at = time.monotonic() + stream.bookmark_period_s
        with selectors.PollSelector() as poll:
            poll.register(self.connection, selectors.EVENT_READ)
            poll.register(watch, selectors.EVENT_READ)
            while True:
                for line in watch.take():
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
                if watch.state is not WatchState.OPEN:
                    return
                ready = poll.select(min(ends_at, bookmark_at) - time.monotonic())
                if any(key.fileobj is self.connection for key, _ in ready):
                    return
                if ready:
                    continue
                with store.lock:
                    watch.push_bookmark(store.version)
                    if time.monotonic() >= ends_at:
                        watch.finish(WatchState.ENDED)
                bookmark_at += stream.bookmark_period_s
