"""Attributes whose reading blocks for a while, for real: a named pipe stands in their place until they answer again."""

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.kernel.tree import Tree


class HeldFiles:
    """Not safe by itself: the kernel calls it under its lock."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._held: dict[Path, _Held] = {}

    def hold(self, path: Path) -> None:
        """Let every read of *path* block, until `give_back`."""
        try:
            content, mode = path.read_bytes(), path.stat().st_mode & 0o777
        except OSError:
            return  # this function has no such attribute
        pipe = self._tree.pipe(path)
        # In packet mode (pipe(7)) each write answers one read(), whatever number of bytes that asks for: sysfs too is
        # read by one read() from the start.
        fcntl.fcntl(pipe, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
        self._held[path] = _Held(content, mode, pipe)

    def write(self, path: Path, content: bytes, mode: int) -> None:
        """Change *path*, at once or, while it is held, when it is given back."""
        if held := self._held.get(path):
            held.content = content
        elif path.read_bytes() != content:
            self._tree.write(path, content, mode)

    def give_back(self, path: Path) -> None:
        """Let *path* be read again; who was blocked gets what it holds now."""
        held = self._held.pop(path, None)
        if held is None:
            return
        self._tree.write(path, held.content, held.mode)
        with contextlib.suppress(BlockingIOError):  # full: 16 blocked readers are answered
            while True:
                os.write(held.pipe, held.content)
        os.close(held.pipe)

    def forget(self, folder: Path) -> None:
        """End all waits below *folder*, which is gone: whoever was blocked reads nothing."""
        for path in [path for path in self._held if folder in path.parents]:
            os.close(self._held.pop(path).pipe)

    def close(self) -> None:
        for path in list(self._held):
            self.give_back(path)


@dataclass(slots=True)
class _Held:
    content: bytes
    mode: int
    pipe: int
