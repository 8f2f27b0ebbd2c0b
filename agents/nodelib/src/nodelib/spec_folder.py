"""CDI folders on the node: reading what is in them, and carrying out a plan of `spec_plan`."""

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from nodelib.errors import InvalidValue, NodeError
from nodelib.files import HostRoot, write_whole
from nodelib.spec_files import FOLDERS, SUFFIXES, Resolution, SpecFile, parse_file, resolve
from nodelib.spec_plan import RemoveSpec, Step, WriteSpec


class SpecReader:
    """Reads CDI folders; a file that did not change since the last time is not parsed again."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int], SpecFile]] = {}

    def read(self, folder: Path) -> tuple[SpecFile, ...]:
        """The spec files directly in *folder*, by name; none where there is no such folder.

        Raises InvalidValue where the folder is there and cannot be listed.
        """
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise InvalidValue(f"cannot list the CDI folder {folder} ({error.strerror})") from error
        found = (self._read_file(path) for path in paths)
        return tuple(file for file in found if file is not None)

    def resolve(self, host: HostRoot, folders: Sequence[str] = FOLDERS) -> Resolution:
        """What *folders* of the host, the later ones winning, resolve to."""
        return resolve(self.read(host.resolve(folder)) for folder in folders)

    def _read_file(self, path: Path) -> SpecFile | None:
        try:
            stat = path.stat()
            identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._known.get(path)
            if known is None or known[0] != identity:
                known = (identity, parse_file(path, path.read_bytes()))
                self._known[path] = known
        except FileNotFoundError:
            return SpecFile(path, b"", None, "a link to nowhere") if path.is_symlink() else None
        except OSError as error:
            if isinstance(error, IsADirectoryError) and not path.is_symlink():
                return None  # runtimes pass over subfolders, whatever their names
            return SpecFile(path, b"", None, f"cannot be read ({error.strerror})")
        return known[1]


def apply(step: Step) -> None:
    """Do one step. Raises NodeError with the path; the folder is then as it was."""
    try:
        match step:
            case WriteSpec(path, content):
                Path(path.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
                write_whole(Path(path), content)
            case RemoveSpec(path):
                Path(path).unlink(missing_ok=True)
            case _:
                assert_never(step)
    except OSError as error:
        raise NodeError(f"cannot {step} ({error.strerror}): make {step.path.parent} writable for this agent") from error
