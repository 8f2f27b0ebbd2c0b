"""Reading files that can block in the kernel, so that one which does holds nobody else up."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

from nodelib import slow_read_worker
from nodelib.errors import NodeError

ANSWER_TIMEOUT_S = 1.0
_CHILD = (sys.executable, "-I", "-S", slow_read_worker.__file__)


class SlowReader:
    """Reads many files at once through one process, a thread a file.

    A file that does not answer in time is not asked again until its old answer came; the others are not delayed.
    Starts its process at the first read; `close` abandons it.
    """

    def __init__(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._answers: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._changed = threading.Condition()
        self._asking = threading.Lock()

    def read(self, paths: Iterable[str], size: int) -> dict[str, bytes | OSError | None]:
        """The first *size* bytes of each of *paths*, or why not; None for a file that does not answer in time.

        Raises NodeError where no process can be started at all.
        """
        wanted = tuple(dict.fromkeys(paths))
        if not wanted:
            return {}
        with self._asking:
            process = self._running()
            with self._changed:
                asked = [path for path in wanted if path not in self._waiting]
                self._waiting.update(asked)
                for path in asked:
                    self._answers.pop(path, None)
            self._send(process, [f"{path}\t{size}\n" for path in asked])
            deadline = time.monotonic() + self._timeout_s
            with self._changed:
                while self._waiting.intersection(asked) and (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                # What was asked in an earlier round and answers now is that round's answer: it is not given as new.
                return {path: _parse(self._answers.get(path)) if path in asked else None for path in wanted}

    def start(self) -> None:
        """Start the process now, so that the first read need not wait for it; where that fails the read will say so."""
        with self._asking, contextlib.suppress(NodeError):
            self._running()

    def close(self) -> None:
        """End the process; one that is inside the kernel is killed and not waited for."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):  # a question that its death cut short is still in the buffer
                process.stdin.close()
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()  # somebody killed it: what was asked of it will never be answered
        with self._changed:
            self._waiting.clear()
        try:
            self._process = subprocess.Popen(
                _CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            raise NodeError(f"cannot start the process that reads what can block ({error.strerror})") from error
        threading.Thread(target=self._collect, args=(self._process,), name="slow-reads", daemon=True).start()
        return self._process

    def _send(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        if process.stdin is None:
            return
        try:
            process.stdin.writelines(lines)
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # it died just now: no answer comes, and the next read starts another

    def _collect(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                path, _, answer = line.rstrip("\n").rpartition("\t")
                with self._changed:
                    if self._process is process:
                        self._answers[path] = answer
                        self._waiting.discard(path)
                        self._changed.notify_all()


def _parse(answer: str | None) -> bytes | OSError | None:
    if answer is None:
        return None
    return OSError(int(answer[1:]), "") if answer.startswith("E") else bytes.fromhex(answer)
