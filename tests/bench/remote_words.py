"""BAR0 of emulated devices for another process: each access is a question over a socket."""

import contextlib
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from cc_manager.gpu.bar0 import Words

_ASKED = struct.Struct("<qq")
"""Word index, and the value to write, or -1 for a read."""
_ANSWER = struct.Struct("<q")


class WordsServer:
    """Answers `RemoteWords`; a connection is one mapping of one device's `resource0`."""

    def __init__(self, map_bar0: Callable[[Path], Words]) -> None:
        self.name = f"simulated-bar0-{secrets.token_hex(8)}"
        self._map_bar0 = map_bar0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(f"\0{self.name}")
        self._socket.listen(64)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            words = self._map_bar0(Path(connection.recv(4096).decode()))
            while asked := connection.recv(_ASKED.size):
                index, value = _ASKED.unpack(asked)
                if value < 0:
                    connection.send(_ANSWER.pack(words[index]))
                else:
                    words[index] = value
                    connection.send(_ANSWER.pack(0))


class RemoteWords:
    """The other end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def __getitem__(self, index: int) -> int:
        return self._ask(index, -1)

    def __setitem__(self, index: int, value: int) -> None:
        self._ask(index, value)

    def _ask(self, index: int, value: int) -> int:
        self._connection.send(_ASKED.pack(index, value))
        answer: int = _ANSWER.unpack(self._connection.recv(_ANSWER.size))[0]
        return answer


@contextlib.contextmanager
def map_remote_words(name: str, path: Path) -> Iterator[RemoteWords]:
    """What mapping *path* gives a process that the server *name* serves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(f"\0{name}")
        connection.send(str(path).encode())
        yield RemoteWords(connection)
