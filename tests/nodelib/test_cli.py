"""From `main` to an exit code. DESIGN section 2: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node."""

import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from nodelib.cli import run_command
from nodelib.errors import DeviceBusy, InvalidValue, NodeError, NotSupported
from tests.nodelib.samples import DEADLINE_S, at


def command_that(act: Callable[[], object]) -> click.Command:
    @click.command(name="agent")
    @click.option("--number", type=int)
    def agent(number: int | None) -> object:
        return act()

    return agent


def failing_with(error: BaseException) -> click.Command:
    def act() -> object:
        raise error

    return command_that(act)


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (3, 3), ("text", 0)])
def test_a_command_ends_with_the_number_it_returns_or_with_0(result: object, code: int) -> None:
    assert run_command(command_that(lambda: result), []) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NodeError("the API server is away"), 1),
        (InvalidValue("--gpu-alias: no"), 2),
        (NotSupported("cannot list /sys/bus/pci/devices"), 3),
        (DeviceBusy(at("3b"), "it is in use"), 1),
    ],
)
def test_an_error_is_one_sentence_and_its_number(
    error: NodeError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(failing_with(error), []) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""


@pytest.mark.parametrize("args", [["--number", "x"], ["--unknown"], ["extra"]])
def test_wrong_usage_is_2_and_said_on_standard_error(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command_that(lambda: None), args) == 2
    captured = capsys.readouterr()
    assert "Error: " in captured.err
    assert captured.out == ""


def test_help_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command_that(lambda: None), ["--help"]) == 0
    assert "--number" in capsys.readouterr().out


@click.group(name="agent")
def agent_with_verbs() -> None:
    pass


@agent_with_verbs.command()
def run() -> int:
    return 42


@pytest.mark.parametrize(("args", "code"), [([], 42), (["run"], 42), (["--help"], 0), (["--unknown"], 2)])
def test_existing_manifests_start_the_daemon_with_no_arguments_at_all(
    args: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["agent", *args])
    assert run_command(agent_with_verbs, default=["run"]) == code


def test_an_interrupted_command_is_1() -> None:
    assert run_command(failing_with(KeyboardInterrupt()), []) == 1
    assert run_command(failing_with(click.Abort()), []) == 1


def test_a_simulated_node_reaches_the_command() -> None:
    seen: list[object] = []

    @click.command()
    @click.pass_obj
    def agent(obj: object) -> None:
        seen.append(obj)

    node = object()
    assert run_command(agent, [], obj=node) == 0
    assert seen == [node]


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(failing_with(ZeroDivisionError()), [])


SCRIPT = """
import sys, time, click
from nodelib.cli import run_command
@click.command()
def agent():
    sys.stdin.readline()
    for _ in range(100000):
        click.echo("0000:3b:00.0  GH100")
sys.exit(run_command(agent, []))
"""


def test_a_reader_that_goes_away_ends_the_command_without_a_word() -> None:
    """`status | head -1`"""
    command = [sys.executable, "-c", SCRIPT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            child.stdin.write("go on\n")
            child.stdin.flush()
            words = child.stderr.read()
            assert child.wait(DEADLINE_S) == 1
        finally:
            child.kill()
    assert words == ""
