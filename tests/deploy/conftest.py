"""The life of each agent under its manifest, lived once for all tests that ask about it."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.deploy.manifests import agents, deployed, with_component
from tests.deploy.render import Object
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
    history: tuple[tuple[dict[str, str], dict[str, str]], ...]
    """The node's labels and annotations after each write of anybody."""


class Lives(Protocol):
    """Gives the life of an agent, in base or with one component."""

    def __call__(self, name: str, component: str = "") -> Lived: ...


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Lives:
    """The life of an agent by its name, in base or with a component; the first test process to ask lives it for all."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    def of(name: str, component: str = "") -> Lived:
        folder = shared / f"life-of-{name}-{component}"
        folder.mkdir(exist_ok=True)
        told = folder / "report.json"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not told.exists():
                with tempfile.TemporaryDirectory(prefix="life-") as short:  # for sockets, whose paths may not be long
                    objects = with_component(component, folder) if component else deployed()
                    told.write_text(json.dumps(_live(name, objects, Path(short) / "node")))
        report = json.loads(told.read_text())
        assert not report["failure"], report["failure"]
        return Lived(
            tuple(report["reads"]),
            tuple(report["writes"]),
            tuple(report["written_elsewhere"]),
            frozenset(tuple(request) for request in report["requests"]),
            report["pages"],
            tuple((labels, annotations) for labels, annotations in report["history"]),
        )

    return of


def _live(name: str, objects: list[Object], folder: Path) -> dict[str, object]:
    folder.mkdir()
    agent = agents(objects)[name]
    given = {
        "rights": sorted(rights_of(objects, agent.pod["serviceAccountName"])),
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
