"""The files, folders and links below the simulated root; each change appears whole, as it does in sysfs."""

import itertools
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class File:
    """An attribute; the mode says what the kernel lets be done with it, even by root."""

    content: bytes = b""
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link with the text that the kernel gives it."""

    target: str


@dataclass(frozen=True, slots=True)
class Folder:
    """An empty folder. It also stands for an attribute that cannot be read: root can read any file, but no folder."""


Entry: TypeAlias = File | Link | Folder


class Tree:
    """What is made is first made in a folder of its own and then moved, so that no reader finds half of it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.sys = self.root / "sys"
        self._being_made = self.root / ".being-made"
        self._numbers = itertools.count()
        self._being_made.mkdir(parents=True)

    def close(self) -> None:
        shutil.rmtree(self._being_made, ignore_errors=True)

    def write(self, path: Path, content: str | bytes, mode: int = 0o644) -> None:
        """A file with this content, in place of what is there."""
        new = self._new_place()
        _make_file(new, content.encode() if isinstance(content, str) else content, mode)
        new.replace(path)

    def link(self, path: Path, target: Path) -> None:
        """A relative link, as all links of sysfs are."""
        text = os.path.relpath(target, path.parent)
        try:
            path.symlink_to(text)
        except FileExistsError:
            new = self._new_place()
            new.symlink_to(text)
            new.replace(path)

    def pipe(self, path: Path) -> int:
        """A named pipe in place of the file at *path*; its descriptor, open at both ends."""
        new = self._new_place()
        os.mkfifo(new)
        descriptor = os.open(new, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        new.replace(path)
        return descriptor

    def fill(self, path: Path, entries: Mapping[str, Entry]) -> None:
        """A folder with *entries* (names, or `folder/name`), there at once with all of them."""
        new = self._new_place()
        new.mkdir()
        for name, entry in entries.items():
            if "/" in name:
                (new / name).parent.mkdir(parents=True, exist_ok=True)
            match entry:
                case File(content, mode):
                    _make_file(f"{new}/{name}", content, mode)
                case Link(target):
                    (new / name).symlink_to(target)
                case Folder():
                    (new / name).mkdir(exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        new.rename(path)

    def remove(self, path: Path) -> None:
        """Nothing at *path* any more, whatever was there."""
        if path.is_dir() and not path.is_symlink():
            gone = self._new_place()
            path.rename(gone)
            shutil.rmtree(gone)
        else:
            path.unlink(missing_ok=True)

    def _new_place(self) -> Path:
        return self._being_made / str(next(self._numbers))


def _make_file(path: Path | str, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.write(descriptor, content)
        if mode & 0o022:
            os.fchmod(descriptor, mode)  # the usual umask took these bits away
    finally:
        os.close(descriptor)
