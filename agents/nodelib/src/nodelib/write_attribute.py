"""The child process that writes to one device's files, where the kernel may never return from a write.

Run as a program by `kernel_writes`. Lines in: the path, a tab, an offset (`-` for an attribute of sysfs), a tab, the
bytes in hex. A line out for each: 0, or the errno. It imports next to nothing, so that it starts in a few milliseconds.
"""

import os
import sys


def write_file(path: str, offset: str, data: bytes) -> int:
    """Write *data* to the file at *path* as the kernel wants it: one write, nothing created. The errno, or 0."""
    try:
        # Never O_CREAT: a missing attribute must fail in a folder of plain files as it does in sysfs. Write-only,
        # because `bind` and `unbind` refuse to be opened for reading.
        truncate = os.O_TRUNC if offset == "-" else 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | truncate)
        try:
            if offset == "-":
                os.write(descriptor, data)
            else:
                os.pwrite(descriptor, data, int(offset))
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno or -1
    return 0


def serve() -> None:
    """Write what standard input asks for until it ends."""
    for line in sys.stdin:
        path, offset, data = line.rstrip("\n").split("\t")
        sys.stdout.write(f"{write_file(path, offset, bytes.fromhex(data))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
