"""A server that takes connections one after another and answers each with the bytes it was given."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


@dataclass(slots=True)
class ScriptedServer:
    """What is being served; `requests` are the heads of those that came."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)
    """Set, it ends the connections that are held open after their answer."""


@contextmanager
def serving(
    *answers: bytes, hold: bool = False, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[ScriptedServer]:
    """Answers the first connection with the first of *answers*, and so on, then takes none.

    With *hold* a connection stays open after its answer until the server is told to let go.
    """
    listener = socket.create_server((host, 0))
    scheme = "https" if context else "http"
    server = ScriptedServer(f"{scheme}://{host}:{listener.getsockname()[1]}")

    def serve() -> None:
        for text in answers:
            with suppress(OSError):  # a client that refuses us, or that ends the connection while it is held
                accepted, _ = listener.accept()
                with context.wrap_socket(accepted, server_side=True) if context else accepted as connection:
                    server.requests.append(_head(connection))
                    connection.sendall(text)
                    if hold:
                        server.let_go.wait()

    thread = threading.Thread(target=serve, name="scripted-server")
    thread.start()
    try:
        yield server
    finally:
        server.let_go.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # on Linux this ends a blocked accept
        thread.join()
        listener.close()


def _head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return head
