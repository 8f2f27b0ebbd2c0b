"""The child process of a write with a deadline: asks the simulated kernel instead of the real one.

Run as a program with the socket's name; it speaks the language of `nodelib.write_attribute`, and like that one it must
start quickly, so it imports next to nothing.
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


def ask(name: str, line: str) -> str:
    """The kernel's answer to one line of `nodelib.write_attribute`'s language: 0 or the errno."""
    kernel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    kernel.connect("\0" + name)
    kernel.send(line.encode())
    kernel.shutdown(_socket.SHUT_WR)
    answer = kernel.recv(16).decode()
    kernel.close()
    return answer


if __name__ == "__main__":
    _let_be_held()
    for request in sys.stdin:
        sys.stdout.write(f"{ask(sys.argv[1], request)}\n")
        sys.stdout.flush()
