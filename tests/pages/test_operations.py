"""docs/operations.md says what the code does: complete, and the same as what a running daemon shows."""

import ast
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nodelib.settings import DaemonSettings
from tests.demo.agents import RunningAgents
from tests.fakes.node import SimulatedNode
from tests.fakes.polling import until
from tests.pages import operations
from tests.pages.commands import executables, options
from tests.pages.source import AGENTS, PACKAGES, ROOT, check_names, constants, modules, problems

PAGE = (ROOT / "docs/operations.md").read_text()
LABEL = re.compile(r"([a-z-]+\.)+(com|io)/[a-z][\w.-]+")
METRIC = re.compile(r"^\| `(\w+)` \| (gauge|counter|histogram) \|", re.MULTILINE)
TYPE = re.compile(r"^# TYPE (\w+) (\w+)$", re.MULTILINE)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_verb_and_option_explains_itself(agent: str) -> None:
    for executable in executables(agent):
        assert all(command.help for command in executable.verbs.values()), executable.name
        unexplained = [option.flags for option in options(executable) if not option.meaning]
        assert not unexplained, f"{executable.name}: no help for {unexplained}"


def test_every_label_and_file_that_the_code_names_is_explained_below_its_constant() -> None:
    named = (*operations.label_constants(), *operations.file_constants())
    assert len(named) > 10
    for constant in named:
        assert constant.doc, f"{constant.module}.{constant.name} needs a docstring below it: the page is made of those"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_label_is_written_in_the_midst_of_the_code(package: str) -> None:
    """Only a constant can be explained, and only what is explained is on the page."""
    known = {constant.value for constant in constants(package)}
    for module, tree in modules(package):
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not {text for text in texts if LABEL.fullmatch(text)} - known, module


@pytest.mark.parametrize("agent", AGENTS)
def test_no_event_has_a_reason_that_is_not_declared(agent: str) -> None:
    for module, tree in modules(agent):
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == "EventReason"]
        assert not made or module.endswith(".event_reasons"), f"{module} makes a reason of its own"
    for reason in operations.event_reasons(agent):
        assert re.fullmatch(r"([A-Z][a-z0-9]+)+", reason.name)
        assert reason.meaning.endswith(".")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_problem_code_and_check_name_can_be_read_from_the_source(package: str) -> None:
    """One that only a run puts together would be on no page."""
    for name in (*(problem.code for problem in problems(package)), *check_names(package)):
        assert re.fullmatch(r"[a-z0-9-]+", name), f"{package}: {name}"


def test_a_scrape_of_each_running_agent_shows_the_metrics_of_the_page(tmp_path: Path) -> None:
    on_page = set(METRIC.findall(PAGE))
    with SimulatedNode("workstation", tmp_path) as simulated:
        for agent, start in _STARTS.items():
            url = f"127.0.0.1:{_free_port()}"
            running = RunningAgents(simulated, DaemonSettings(5.0, url))
            start(running)
            try:
                until(partial(_is_up, url))
                shown = set(TYPE.findall(_scraped(url)))
            finally:
                running.stop()
            shown = {(_in_every_agent(name, agent), kind) for name, kind in shown}
            assert shown <= on_page, f"{agent}: {shown - on_page} is not on the page: make docs"
            prefix = (f"{agent}_", "AGENT_")
            assert shown >= {(n, k) for n, k in on_page if n.startswith(prefix)}, (
                f"{agent} does not show all of the page"
            )


_STARTS: dict[str, Callable[[RunningAgents], object]] = {
    "vfio_manager": RunningAgents.start_vfio_manager,
    "cc_manager": RunningAgents.start_cc_manager,
    "kata_manager": RunningAgents.start_kata_manager,
    "device_plugin": RunningAgents.start_device_plugin,
}


def _in_every_agent(name: str, agent: str) -> str:
    shared = name.replace(agent, "AGENT", 1)
    return shared if f"`{shared}`" in PAGE else name


def _is_up(url: str) -> bool:
    return bool(_scraped(url))


def _scraped(url: str) -> str:
    try:
        with urllib.request.urlopen(f"http://{url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
