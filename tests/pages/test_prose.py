"""What the pages tell people to follow and to type: links lead somewhere, commands are ones that the programs take."""

import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest

from nodelib.cli import run_command
from tests.fakes.node import NODE_NAME, SimulatedNode
from tests.pages.commands import Executable, executables, options, variables
from tests.pages.prose import PAGES, anchors, blocks, code, commands, flags, links
from tests.pages.source import AGENTS, PACKAGES, ROOT, ignored_variables, sentences

EXECUTABLES = {one.name: one for agent in AGENTS for one in executables(agent)}
EXAMPLES = {"ADDRESS": "0000:17:00.0", "MODE": "on", "NODE": "node-1", "NAME": "vfio-pci", "VERB": "status"}

SAID = frozenset[str]().union(*map(sentences, PACKAGES))
COMMAND = re.compile(
    r"\b(vfio-manage|vfio-manager|cc-manager|kata-manager|device-plugin) ([a-z]+)((?: --[a-z-]+(?: [A-Z]+)?)*)"
)
OPERATIONS = (ROOT / "docs/operations.md").read_text()
NOT_OURS = {"SYS_ADMIN", "SYS_MODULE", "SYS_PTRACE", "SOURCE_DATE_EPOCH"}
"""Capabilities, and variables of builds."""
LOOKING = ("status", "plan", "doctor", "list", "spec")
"""Verbs that change nothing, so that a test can do what a page says."""
OTHERS_FLAGS = {"--all-namespaces", "--as", "--field-selector", "--for", "--now", "--overwrite", "--timeout", "--tail"}
OTHERS_FLAGS |= {"--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector", "--dirname", "--verify", "--check"}
"""Of kubectl, systemctl, modprobe and our own scripts."""


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def typed(executable: str = "") -> list[tuple[str, list[str]]]:
    """The command lines of all pages that begin with one of our programs."""
    found = []
    for page in PAGES:
        for line in commands(page):
            words = [EXAMPLES.get(word, word) for word in _split(line)]
            if words and words[0] in EXECUTABLES and words[0].startswith(executable):
                found.append((ids(page), words))
    return found


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_leads_to_a_page_and_a_heading_that_are_there(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{ids(page)} links {target}"
        assert not anchor or anchor in anchors(target), f"{ids(page)} links #{anchor} in {target.name}"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_flag_that_a_page_names_is_one_that_a_program_has(page: Path) -> None:
    known = {word for executable in EXECUTABLES.values() for o in options(executable) for word in o.flags.split()}
    assert flags(page) <= known | OTHERS_FLAGS | {"--help", "--version"}


def test_every_command_of_ours_on_a_page_is_one_that_its_program_takes() -> None:
    lines = typed()
    assert len(lines) > 60
    for page, (name, *arguments) in lines:
        problem = refusal(EXECUTABLES[name], arguments)
        if len(arguments) == 1 and problem.startswith("Missing "):
            continue  # a verb by its name alone is a mention, not something to type
        assert not problem, f"{page}: {name} {' '.join(arguments)}: {problem}"


def test_every_command_of_ours_that_a_message_or_a_page_of_code_names_exists() -> None:
    """A remedy is followed by people who are in trouble already."""
    named = {
        found for text in SAID for found in COMMAND.findall(text) if found[1] in EXECUTABLES[found[0]].verbs or found[2]
    }
    assert len(named) > 8
    for name, verb, words in named:
        executable = EXECUTABLES[name]
        known = {word for option in options(executable) for word in option.flags.split()}
        assert verb in {*executable.verbs, "with"}, f"{name} {verb}{words}"
        assert set(re.findall(r"--[a-z-]+", words)) <= known, f"{name} {verb}{words}"


def test_every_looking_command_on_a_page_answers_on_a_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {tuple(words) for _, words in typed() if len(words) > 1 and words[1] in LOOKING and "--write" not in words}
    assert len(lines) > 10
    with SimulatedNode("mixed", tmp_path) as simulated:
        monkeypatch.setenv("NODE_NAME", NODE_NAME)
        monkeypatch.setenv("KUBECONFIG", str(simulated.kubeconfig))
        for name, *arguments in sorted(lines):
            code = run_command(EXECUTABLES[name].command, arguments, simulated)
            captured = capsys.readouterr()
            assert code == 0 or (code == 1 and "doctor" in arguments), f"{name} {arguments}: {captured.err}"
            assert captured.out


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_make_target_and_path_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands(page):
        match _split(line):
            case ["make", target, *_] if re.fullmatch("[a-z-]+", target):
                assert target in targets, line
            case ["kubectl", *words]:
                paths = [word for flag, word in pairwise(words) if flag in ("-k", "-f")]
                assert all((ROOT / path).exists() for path in paths), line
            case [python, "-m", module, *_] if python.endswith("python"):
                assert list(ROOT.glob(f"{module.replace('.', '/')}*")) or module == "pytest", line


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_variable_metric_and_event_that_a_page_names_is_in_operations(page: Path) -> None:
    """Where a page tells what others have, or the kernel, it is told apart below."""
    named = {
        word for word in code(page) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+|[a-z]+_[a-z_]+_total|(Cc|Cdi|Gpu)[A-Z]\w+", word)
    }
    unknown = {word for word in named if word not in OPERATIONS}
    assert unknown <= NOT_OURS


def test_the_readme_shows_the_demo_as_it_is() -> None:
    shown = re.search(
        r"^RESULT +TIME.*?^every step was verified$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    said = subprocess.run(
        [sys.executable, "-m", "tests.demo"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    ).stdout
    assert shown
    assert without_times(shown[0]) == without_times(said[said.index("RESULT") :])


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    for word in code(page):
        package, *parts = word.split(".")
        if package in PACKAGES and parts and all(part.isidentifier() for part in parts):
            folder = ROOT / "agents" / package / "src" / package
            paths = (folder.joinpath(*parts), folder.joinpath(*parts[:-1]))  # the last may be a name within the module
            assert any(path.is_dir() or path.with_suffix(".py").exists() for path in paths if path != folder), word


def test_nodelibs_readme_names_all_its_modules() -> None:
    modules = {path.stem for path in (ROOT / "agents/nodelib/src/nodelib").glob("*.py")} - {"__init__"}
    assert modules <= code(ROOT / "agents/nodelib/README.md")


def test_what_becomes_of_a_variable_is_what_the_migration_page_says() -> None:
    text = (ROOT / "docs/migration.md").read_text().partition("## Variables")[2].partition("## Labels")[0]
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.*?) \|", text, re.MULTILINE)
    ignored = {name for package in PACKAGES for name, _ in ignored_variables(package)} | {"CC_CAPABLE_DEVICE_IDS"}
    taken = {variable for agent in AGENTS for variable in variables(agent)}
    assert len(rows) > 8
    for names, ours in rows:
        assert set(re.findall("`([A-Z_]+)`", names)) <= (ignored if "without effect" in ours else taken), names


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_shell_block_is_what_a_shell_takes(page: Path) -> None:
    for block in blocks(page, "sh"):
        told = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert told.returncode == 0, told.stderr + block


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agents_readme_names_all_its_verbs_and_no_other(agent: str) -> None:
    text = (ROOT / "agents" / agent / "README.md").read_text()
    told = {
        cell.split()[0]
        for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
        for cell in re.findall("`([^`]+)`", row)
    }
    assert told == set(executables(agent)[0].verbs)


def refusal(executable: Executable, arguments: list[str]) -> str:
    """Why the program would not take *arguments*; empty if it would. Nothing is run."""
    command = executable.command
    verb, *rest = arguments or ["--help"]  # a name alone is a mention
    if isinstance(command, click.Group):
        if verb.startswith("-"):
            return ""
        if verb not in command.commands:
            return f"there is no verb {verb}"
        command = command.commands[verb]
    try:
        command.make_context(verb, [one for one in rest if one != "..."])
    except click.exceptions.Exit:  # --help
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


def without_times(text: str) -> str:
    return re.sub(r" +\d+\.\d+ s ", " T ", text.strip())


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an apostrophe in code that is no command
        return []
