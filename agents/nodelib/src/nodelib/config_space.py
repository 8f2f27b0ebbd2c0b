"""Does a device still answer? Configuration space read so that a device which hangs holds nobody else up."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nodelib import config_worker
from nodelib.pci import ConfigState, PciAddress

ANSWER_TIMEOUT_S = 1.0
_CHILD = (sys.executable, "-I", "-S", config_worker.__file__)


@dataclass(frozen=True, slots=True)
class ConfigAnswer:
    """What one read of a device's configuration space gave."""

    state: ConfigState
    header: bytes = b""
    """The first 64 bytes, if it answered."""

    @property
    def command(self) -> int | None:
        """The command register (offset 4; PCI specification), None where there was no answer."""
        return int.from_bytes(self.header[4:6], "little") if self.state is ConfigState.ANSWERS else None


class ConfigReader:
    """Reads the configuration spaces of many devices at once through one process, a thread a device.

    A device that does not answer in time is `HUNG` and is not asked again until its old answer came; the others are
    not delayed. Starts its process at the first read; `close` abandons it.
    """

    def __init__(self, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._answers: dict[str, str] = {}
        self._waiting: set[str] = set()
        self._changed = threading.Condition()
        self._asking = threading.Lock()

    def read(self, paths: Mapping[PciAddress, Path]) -> dict[PciAddress, ConfigAnswer]:
        """The answer of every device in *paths* (address to its `config` file), within about the time limit."""
        with self._asking:
            process = self._running()
            with self._changed:
                asked = [str(path) for path in paths.values() if str(path) not in self._waiting]
                self._waiting.update(asked)
                for path in asked:
                    self._answers.pop(path, None)
            self._send(process, asked)
            deadline = time.monotonic() + self._timeout_s
            with self._changed:
                while self._waiting.intersection(asked) and (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                answers = {
                    address: None if str(path) in self._waiting else self._answers.get(str(path))
                    for address, path in paths.items()
                }
        return {address: _judge(answer) for address, answer in answers.items()}

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
        if self._process is not None:
            self.close()  # somebody killed it: what was asked of it will never be answered
        with self._changed:
            self._waiting.clear()
        self._process = subprocess.Popen(
            _CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._collect, args=(self._process,), name="config-space", daemon=True).start()
        return self._process

    def _send(self, process: subprocess.Popen[str], paths: list[str]) -> None:
        if process.stdin is None:
            return
        try:
            process.stdin.writelines(f"{path}\n" for path in paths)
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return  # it died just now: no answer comes, and the next read starts another

    def _collect(self, process: subprocess.Popen[str]) -> None:
        if process.stdout is None:
            return
        with process.stdout as lines:
            for line in lines:
                path, _, answer = line.rstrip("\n").partition("\t")
                with self._changed:
                    if self._process is process:
                        self._answers[path] = answer
                        self._waiting.discard(path)
                        self._changed.notify_all()


def _judge(answer: str | None) -> ConfigAnswer:
    if answer is None:
        return ConfigAnswer(ConfigState.HUNG)
    if answer.startswith("E") or len(answer) < 8:
        return ConfigAnswer(ConfigState.UNREADABLE)
    header = bytes.fromhex(answer)
    # A function that fell off the bus reads as all ones; 0xffff is no vendor's id (PCI specification).
    state = ConfigState.GONE if header[:2] == b"\xff\xff" else ConfigState.ANSWERS
    return ConfigAnswer(state, header)
