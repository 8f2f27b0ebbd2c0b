"""Answers of the agents on a simulated node, asked through their real command lines."""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nodelib.cli import run_command
from tests.demo.agents import RunningAgents
from tests.fakes.node import SimulatedNode
from tests.pages.commands import executables

VERBS = (("vfio_manager", "status"), ("cc_manager", "status"), ("kata_manager", "status"), ("device_plugin", "list"))
"""The verb of each agent that tells what is there."""


def ask(agent: str, *arguments: str, obj: object) -> str:
    """What the agent's own command prints. Raises AssertionError unless it ends with 0."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        result = run_command(executables(agent)[0].command, arguments, obj)
    assert result == 0, f"{agent} {' '.join(arguments)}: exit code {result}"
    return said.getvalue()


def records() -> Iterator[tuple[str, str]]:
    """Each verb and the first record of its JSON, on a node that vfio-manager has prepared."""
    with tempfile.TemporaryDirectory(prefix="pages-") as folder, SimulatedNode("dgx-h100", Path(folder)) as simulated:
        RunningAgents(simulated).vfio_manager().bind()
        for agent, verb in VERBS:
            record = json.loads(ask(agent, verb, "-o", "json", obj=simulated))[0]
            yield f"{executables(agent)[0].name} {verb}", json.dumps(_shortened(record), indent=2)


def _shortened(value: object) -> object:
    """*value* with at most two items in every list within it."""
    match value:
        case dict():
            return {key: _shortened(item) for key, item in value.items()}
        case list():
            return [_shortened(item) for item in value[:2]]
        case _:
            return value
