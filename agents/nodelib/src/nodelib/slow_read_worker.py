"""The process that reads files which can block in the kernel, for `slow_reads`: one thread a file.

A read of `config` blocks for minutes while the device resets, one of `driver_override` while anybody holds the device's
lock, and a thread inside it cannot be ended; therefore it happens here, in a process that its parent can abandon. Lines
in: a path, a tab, how many bytes. Lines out: the path, a tab, and the bytes in hex, or `E` and the errno.
"""

import os
import queue
import sys
import threading


def read_file(path: str, size: int) -> str:
    """The first *size* bytes of the file at *path* in hex, or `E` and the errno."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, size).hex()
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"E{error.errno}"


def _answer(requests: "queue.SimpleQueue[tuple[str, int]]", out: threading.Lock) -> None:
    while True:
        path, size = requests.get()
        text = f"{path}\t{read_file(path, size)}\n"
        with out:
            os.write(1, text.encode())


def serve() -> None:
    """Answer requests until standard input ends."""
    out = threading.Lock()
    workers: dict[str, queue.SimpleQueue[tuple[str, int]]] = {}
    for line in sys.stdin:
        path, _, size = line.rstrip("\n").rpartition("\t")
        if path not in workers:
            workers[path] = queue.SimpleQueue()
            threading.Thread(target=_answer, args=(workers[path], out), daemon=True).start()
        workers[path].put((path, int(size)))
    os._exit(0)  # threads may be inside the kernel: nothing to wait for


if __name__ == "__main__":
    serve()
