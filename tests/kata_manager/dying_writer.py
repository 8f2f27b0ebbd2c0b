"""Run as a program: kata-manager's write over and over, ended at each of its file operations in turn.

Arguments: the host's root, `kill` or an errno. One JSON line an operation: its name, how the write ended, and what the
CDI folder then held. Forks, which a process of threads must not; this one has none.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from nodelib.errors import NodeError
from nodelib.node import Node
from nodelib.spec_files import SpecFormat
from nodelib.spec_folder import apply

OPERATIONS = {"open", "write", "flush", "close", "fchmod", "chmod", "fsync", "rename", "replace", "unlink", "mkdir"}
"""The functions in C through which Python changes files."""
SETTINGS = Settings(form=SpecFormat.JSON)
"""Other than what lies there: a file is to be written, and its twin in YAML and a stale one are to go."""


def main() -> None:
    root, fault = Path(sys.argv[1]), sys.argv[2]
    folder = root / "var/run/cdi"
    shutil.copytree(folder, root / "before")
    number = 0
    while True:
        shutil.rmtree(folder)
        shutil.copytree(root / "before", folder)
        name, ended = _attempt(root, fault, number)
        held = {path.name: path.read_text() for path in folder.iterdir()}
        sys.stdout.write(f"{json.dumps({'operation': name, 'ended': ended, 'held': held})}\n")
        sys.stdout.flush()
        if not name:
            return
        number += 1


def _attempt(root: Path, fault: str, number: int) -> tuple[str, str]:
    """The name of operation *number* (empty if there are not so many) and how the write ended."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        keeper = SpecKeeper(Node.at(root), SETTINGS)
        sys.setprofile(_ending_at(number, fault, write))
        try:
            keeper.write()
            said = "done"
        except NodeError as error:
            said = f"failed: {error}"
        finally:
            sys.setprofile(None)
        os.write(write, f"\n{said}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        name, _, ended = pipe.read().partition("\n")
    os.waitpid(child, 0)
    return name, ended or "killed"


def _ending_at(number: int, fault: str, report: int) -> Callable[[FrameType, str, object], None]:
    """A profile function that, just before operation *number*, kills this process or lets the operation fail."""
    seen = 0

    def watch(frame: FrameType, event: str, what: object) -> None:
        nonlocal seen
        name = getattr(what, "__name__", "")
        if event != "c_call" or name not in OPERATIONS or not _carries_out_a_step(frame):
            return
        seen += 1
        if seen == number + 1:
            sys.setprofile(None)
            os.write(report, name.encode())
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(int(fault), os.strerror(int(fault)))

    return watch


def _carries_out_a_step(frame: FrameType | None) -> bool:
    """Whether the code at *frame* runs for `spec_folder.apply`; what is only read before it harms nobody."""
    while frame is not None and frame.f_code is not apply.__code__:
        frame = frame.f_back
    return frame is not None


if __name__ == "__main__":
    main()
