"""The real process on a small node, as Kubernetes starts and ends it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.device_plugin.small_node import SmallNode

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class PluginProcess:
    """One that runs, or ran."""

    popen: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def said(self) -> str:
        """All that it has logged so far."""
        return self.log.read_text()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.popen.wait(DEADLINE_S)

    def finish(self) -> str:
        """End it as Kubernetes does, and what it said in its life."""
        self.popen.send_signal(signal.SIGTERM)
        assert self.wait() == 0, self.said
        return self.said


@contextlib.contextmanager
def process(
    small: SmallNode, *options: str, prefix: Sequence[str] = (), python: str = sys.executable, **variables: str
) -> Iterator[PluginProcess]:
    """`device-plugin run` with *options* and environment *variables*, by *python*, which *prefix* starts.

    Its log goes to a file: a pipe that nobody empties would stop it sooner or later.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HOST_ROOT": str(small.root)} | variables
    command = [*prefix, python, "-m", "device_plugin", "run", "--cdi", "off", *options]
    with tempfile.NamedTemporaryFile(prefix="device-plugin-", suffix=".log") as log:
        running = subprocess.Popen(command, env=environment, stderr=log)
        try:
            yield PluginProcess(running, Path(log.name))
        finally:
            running.kill()
            running.wait()
