"""The process that reads configuration space for `config_space`, one thread a device.

A read of `config` blocks for minutes while the device resets, and a thread inside it cannot be ended; therefore it
happens here, in a process that its parent can abandon. Lines in: a path. Lines out: the path, a tab, and the bytes in
hex, or `E` and the errno.
"""

import os
import queue
import sys
import threading

_BYTES = 64
"""The standard header: what every user may read (the rest needs CAP_SYS_ADMIN)."""


def read_config(path: str) -> str:
    """The first bytes of the file at *path* in hex, or `E` and the errno."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, _BYTES).hex()
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"E{error.errno}"


def _answer(paths: "queue.SimpleQueue[str]", out: threading.Lock) -> None:
    while True:
        path = paths.get()
        text = f"{path}\t{read_config(path)}\n"
        with out:
            os.write(1, text.encode())


def serve() -> None:
    """Answer requests until standard input ends."""
    out = threading.Lock()
    workers: dict[str, queue.SimpleQueue[str]] = {}
    for line in sys.stdin:
        path = line.rstrip("\n")
        if path not in workers:
            workers[path] = queue.SimpleQueue()
            threading.Thread(target=_answer, args=(workers[path], out), daemon=True).start()
        workers[path].put(path)
    os._exit(0)  # threads may be inside the kernel: nothing to wait for


if __name__ == "__main__":
    serve()
