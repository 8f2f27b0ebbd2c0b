"""The life of each agent under its manifest, lived once for all tests that ask about it."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.manifests import Agent, agents, deployed
from tests.deploy.rights import rights_of

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Lived:
    """What `tests.deploy.life` told of one agent."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    written_elsewhere: tuple[str, ...]
    requests: frozenset[tuple[str, str, str, int]]
    """Verb, resource, namespace, status of the answer."""
    pages: dict[str, str]


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Lived]:
    """The life of an agent by its name; whichever test process comes first lives it for all."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def of(name: str) -> Lived:
        folder = shared / f"life-of-{name}"
        folder.mkdir(exist_ok=True)
        told = folder / "report.json"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not told.exists():
                with tempfile.TemporaryDirectory(prefix="life-") as short:  # for sockets, whose paths may not be long
                    told.write_text(json.dumps(_live(agents()[name], Path(short) / "node")))
        report = json.loads(told.read_text())
        assert not report["failure"], report["failure"]
        return Lived(
            tuple(report["reads"]),
            tuple(report["writes"]),
            tuple(report["written_elsewhere"]),
            frozenset(tuple(request) for request in report["requests"]),
            report["pages"],
        )

    return of


def _live(agent: Agent, folder: Path) -> dict[str, object]:
    folder.mkdir()
    given = {
        "rights": sorted(rights_of(deployed(), agent.pod["serviceAccountName"])),
        "folders": [mount.host_path for mount in agent.mounts if mount.is_below_host_root],
    }
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    result = subprocess.run(
        [
            sys.executable,
            "-B",
            "-m",
            "tests.deploy.life",
            agent.name,
            str(folder),
            json.dumps(given),
            *agent.arguments(),
        ],
        cwd=ROOT,
        env=kept | agent.environment(pod_ip="127.0.0.1"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    told: dict[str, object] = json.loads(result.stdout)
    return told
