"""Keeps a process alive that is killed, as the kernel keeps one that is inside it. Run with its process id.

A process that dies while it is traced stays in the process table, not to be waited for by its parent, until its tracer
lets go (ptrace(2), "Death under ptrace"). To the parent it is a process that SIGKILL did not end. It is let go when
standard input ends.
"""

import ctypes
import os
import sys

_PTRACE_SEIZE = 0x4206


def hold(pid: int) -> int:
    """0, or the errno."""
    kernel = ctypes.CDLL(None, use_errno=True)
    kernel.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    kernel.ptrace.restype = ctypes.c_long
    return ctypes.get_errno() if kernel.ptrace(_PTRACE_SEIZE, pid, None, None) else 0


if __name__ == "__main__":
    os.write(1, str(hold(int(sys.argv[1]))).encode())
    while os.read(0, 1):
        pass
