"""`make demo` on every node: the four agents together, each step verified by reading back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.topologies import TOPOLOGIES

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "80"}
    command = [sys.executable, "-m", "tests.demo", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("topology", [*TOPOLOGIES, "scale-40"])
def test_the_demo_verifies_every_step_on(topology: str) -> None:
    result = run(topology)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.rstrip().endswith("every step was verified")
    assert "FAILED" not in result.stdout
    assert result.stderr == ""
    wide = [line for line in result.stdout.splitlines() if len(line) > 80]
    assert not wide, wide


def test_the_demo_on_a_gpu_that_cannot_be_given_away_tells_why_and_what_to_do() -> None:
    said = " ".join(run("h200-vm").stdout.split())
    for agent in ("vfio-manager", "cc-manager", "kata-manager", "device-plugin"):
        assert agent in said
    assert "in no IOMMU group" in said
    assert "switch the IOMMU on" in said
    assert "nvidia.com/cc.mode.state=failed" in said


def test_an_unknown_topology_is_refused_with_the_known_ones() -> None:
    result = run("dgx-h9000")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "dgx-h9000" in result.stderr
    assert "dgx-h100" in result.stderr
