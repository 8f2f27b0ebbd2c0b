"""What an agent's own code opens, noted by an audit hook of the interpreter (PEP 578)."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

_ROOT = Path(__file__).parents[2]
_OURS, _FAKES = f"{_ROOT}/agents/", f"{_ROOT}/tests/"
_READS = frozenset({"os.listdir", "os.scandir"})
_CHANGES = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(slots=True)
class Opened:
    """Paths that code of agents/ reads and writes from `watch` on, by whatever thread; children's by their arguments.

    Not seen: what is only asked for (`stat`), and what C code opens by itself, which of ours only gRPC does.
    """

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    is_on: bool = False

    def watch(self) -> None:
        """From now on; a hook cannot be taken back, so this is for a process of its own."""
        self.is_on = True
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_on:
            return
        if event == "open":
            path, _, flags = arguments
            self._add(path, changes=isinstance(flags, int) and bool(flags & _WRITING))
        elif event in _READS or event in _CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._add(path, changes=event in _CHANGES)
        elif event == "socket.connect":
            self._add(arguments[1], changes=False)
        elif event == "subprocess.Popen" and isinstance(arguments[1], (list, tuple)):
            for word in arguments[1]:
                self._add(word, changes=False)

    def _add(self, path: object, *, changes: bool) -> None:
        if isinstance(path, os.PathLike):
            path = os.fspath(path)
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str) and path.startswith("/") and _is_ours(sys._getframe(2)):
            (self.writes if changes else self.reads).add(path)


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the innermost frame that belongs to this repository is an agent's, and not a fake's."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OURS):
            return True
        if file.startswith(_FAKES) and file != __file__:
            return False
        frame = frame.f_back
    return False
