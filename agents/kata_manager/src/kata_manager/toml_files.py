"""Reading the configuration files of containerd, CRI-O and Kata on the host, with what they import."""

import tomllib
from collections.abc import Iterator
from pathlib import PurePosixPath

from kata_manager.containerd import imports_of
from kata_manager.runtimes import ConfigFile
from nodelib.errors import InvalidValue, NodeError
from nodelib.files import HostRoot

_MAX_BYTES = 4 << 20
_MAX_FILES = 256


def read_toml(host: HostRoot, path: str) -> ConfigFile | None:
    """The host's TOML file *path*; None if it is not there. Raises InvalidValue with the line if it does not parse."""
    place = host.resolve(path)
    try:
        if not place.is_file():
            return None
        with place.open("rb") as file:
            content = file.read(_MAX_BYTES)
        return ConfigFile(PurePosixPath(path), tomllib.loads(content.decode()))
    except (ValueError, RecursionError) as error:  # of which both TOML's and Unicode's errors are
        raise InvalidValue(f"{path} is no TOML ({_brief(error)})") from error
    except OSError as error:
        raise NodeError(f"cannot read {path} ({error.strerror})") from error


def read_with_imports(host: HostRoot, path: str) -> tuple[ConfigFile, ...]:
    """containerd's configuration *path* and all that it imports, each file once; none if it is not there.

    Imports are read breadth first, a pattern's files by name, as containerd does. Raises InvalidValue.
    """
    waiting = [path]
    found: dict[str, ConfigFile] = {}
    while waiting and len(found) < _MAX_FILES:
        name = waiting.pop(0)
        if name in found or (file := read_toml(host, name)) is None:
            continue
        found[name] = file
        waiting += [match for pattern in imports_of(file) for match in _matches(host, pattern)]
    return tuple(found.values())


def read_with_drop_ins(host: HostRoot, path: str, folder: str) -> tuple[ConfigFile, ...]:
    """The file *path* and then every file of *folder*, by name; either may be missing."""
    names = [path, *sorted(f"{folder}/{entry.name}" for entry in _entries(host, folder))]
    return tuple(file for name in names if (file := read_toml(host, name)) is not None)


def _matches(host: HostRoot, pattern: str) -> list[str]:
    if not any(character in pattern for character in "*?["):
        return [pattern]
    parent, _, name = pattern.rpartition("/")
    return sorted(f"{parent}/{entry.name}" for entry in _entries(host, parent) if entry.match(name))


def _entries(host: HostRoot, folder: str) -> Iterator[PurePosixPath]:
    try:
        yield from (PurePosixPath(entry) for entry in host.resolve(folder).iterdir())
    except OSError:  # not there, or no folder: then it adds nothing
        return


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
