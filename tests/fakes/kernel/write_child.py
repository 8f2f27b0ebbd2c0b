"""The child process of a write with a deadline: asks the simulated kernel instead of the real one.

Run as a program with the socket's name, the path and the value; prints 0 or the errno as the real child does. It must
start as quickly as that one, so it imports next to nothing.
"""

import _socket
import sys

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER, _ANY = 0x59616D61, (1 << 64) - 1


def _let_be_held() -> None:
    """Where Yama lets processes trace only their children, permit that the kernel's helper holds us."""
    try:
        with open(_YAMA, encoding="ascii") as scope:  # noqa: PTH123 - pathlib takes longer to import than all the rest
            is_restricted = scope.read(1) != "0"
    except OSError:
        return
    if is_restricted:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(_ANY), 0, 0, 0)


def ask(name: str, path: str, value: str) -> str:
    """The kernel's answer: 0 or the errno."""
    kernel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    kernel.connect("\0" + name)
    kernel.send(f"{path}\0{value}".encode())
    kernel.shutdown(_socket.SHUT_WR)
    return kernel.recv(16).decode()


if __name__ == "__main__":
    _let_be_held()
    sys.stdout.write(ask(*sys.argv[1:]))
