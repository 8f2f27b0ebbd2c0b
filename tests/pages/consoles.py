"""Fills the console blocks of a page with what its commands say in a scenario.

A block that follows the line `<!-- on SCENARIO -->` is such a one: lines that begin with `$` stay, what is between them
is replaced by the command's own words.
"""

import contextlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import click

from nodelib.cli import run_command
from nodelib.output import sentence
from tests.fakes.node import NODE_NAME, SimulatedNode
from tests.pages.commands import executables
from tests.pages.scenarios import SCENARIOS, CannotBeMade
from tests.pages.source import AGENTS, ROOT

_BLOCK = re.compile(r"^<!-- on (?P<scenario>[^\n]+) -->\n```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_SENTENCE = re.compile(r"^.*(?:\n  \S.*)*$", re.MULTILINE)
_PID = re.compile(r"/proc/\d+/")
_ANNOTATION = re.compile(r"kubectl get node NODE -o jsonpath='\{\.metadata\.annotations\.(?P<key>.+)\}'")


def page(name: str) -> str:
    """The page *name* of the repository, filled."""
    return filled((ROOT / name).read_text())


def filled(text: str) -> str:
    """*text* with every such block as its commands would have it today. Raises KeyError for an unknown scenario."""
    return _BLOCK.sub(lambda found: f"<!-- on {found['scenario']} -->\n```console\n{_body(found)}```", text)


def commands(text: str) -> tuple[str, ...]:
    """The commands of all console blocks."""
    return tuple(line[2:] for found in _BLOCK.finditer(text) for line in found["body"].splitlines() if line[:2] == "$ ")


def _body(found: re.Match[str]) -> str:
    typed = tuple(line[2:] for line in found["body"].splitlines() if line.startswith("$ "))
    try:
        answers = _answers(found["scenario"], typed)
    except CannotBeMade:
        return found["body"]
    parts = [f"$ {command}\n{answer}" for command, answer in zip(typed, answers, strict=True)]
    return "\n".join(parts)


def _answers(scenario: str, typed: tuple[str, ...]) -> list[str]:
    with (
        tempfile.TemporaryDirectory(prefix="pages-") as folder,
        SCENARIOS[scenario].on(Path(folder)) as simulated,
        _environment(COLUMNS="80", NODE_NAME=NODE_NAME, KUBECONFIG=str(simulated.kubeconfig)),
    ):
        root = str(simulated.node.host.root)
        return [_piped(command, simulated, root) for command in typed]


def _piped(command: str, simulated: SimulatedNode, root: str) -> str:
    """What the command says, through `grep -A N WORD` or `tail -N` if it is sent through one."""
    command, _, filtered = command.partition(" | ")
    table, blank, rest = _answer(command, simulated).partition("\n\n")
    text = _aligned_anew(table, root) + blank + _wrapped_anew(rest.replace(root, ""))
    lines = text.splitlines(keepends=True)
    match shlex.split(filtered):
        case ["grep", "-A", after, word]:
            lines = [
                line
                for n, line in enumerate(lines)
                if any(word in near for near in lines[max(0, n - int(after)) : n + 1])
            ]
        case ["tail", number]:
            lines = lines[int(number) :]
    return _PID.sub("/proc/PID/", "".join(lines))


def _aligned_anew(table: str, root: str) -> str:
    """*table* without *root* in it, its columns as wide as what is left."""
    if root not in table or "  " not in table:
        return _wrapped_anew(table.replace(root, ""))
    lines = table.split("\n")
    starts = [found.start() for found in re.finditer(r"\S+(?: \S+)*", lines[0])]
    cells = [[line[a:b].strip().replace(root, "") for a, b in pairwise([*starts, None])] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _wrapped_anew(text: str) -> str:
    """*text* with its sentences wrapped as if the node's files were not in a folder with a long name."""
    return "\n".join(
        sentence(" ".join(line.split("\n  "))) if "\n  " in line else line for line in _SENTENCE.findall(text)
    )


def _answer(command: str, simulated: SimulatedNode) -> str:
    if found := _ANNOTATION.fullmatch(command):
        return f"{simulated.api.annotations.get(found['key'].replace(chr(92), ''), '')}\n"
    name, *arguments = shlex.split(command)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        run_command(_commands()[name], arguments, simulated)
    return said.getvalue()


@cache
def _commands() -> dict[str, click.Command]:
    return {one.name: one.command for agent in AGENTS for one in executables(agent)}


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """A terminal of 80 columns, as most are, and what a pod or an administrator has set."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
