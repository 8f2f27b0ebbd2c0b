"""The child process that does one write which the kernel may never return from.

Run as a program by `kernel_writes`, with the path and the value; prints 0 or the errno. It imports next to nothing, so
that it starts in a few milliseconds.
"""

import os
import sys


def write_attribute(path: str, value: str) -> int:
    """Write *value* to the attribute at *path* as the kernel wants it: one write, nothing created. The errno, or 0."""
    try:
        # Never O_CREAT: a missing attribute must fail in a folder of plain files as it does in sysfs. Write-only,
        # because `bind` and `unbind` refuse to be opened for reading.
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno or -1
    return 0


if __name__ == "__main__":
    sys.stdout.write(str(write_attribute(sys.argv[1], sys.argv[2])))
