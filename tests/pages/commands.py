"""The command lines as click knows them: executables, verbs, and every option with its variable and default."""

import importlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import click

from tests.pages.source import ROOT

_AUTOMATIC = ("help", "version")


@dataclass(frozen=True, slots=True)
class Executable:
    """One command that a package installs."""

    name: str
    command: click.Command

    @property
    def verbs(self) -> dict[str, click.Command]:
        """The verbs by name; a command without any is its own, under the empty name."""
        return dict(self.command.commands) if isinstance(self.command, click.Group) else {"": self.command}


@dataclass(frozen=True, slots=True)
class Option:
    """One option, and the verbs that have it."""

    flags: str
    variable: str
    default: str
    meaning: str
    verbs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first long one of the flags."""
        return next(flag for flag in self.flags.split() if flag.startswith("--"))


def executables(agent: str) -> tuple[Executable, ...]:
    """The commands that the package of *agent* installs, its own name first."""
    project = tomllib.loads((ROOT / "agents" / agent / "pyproject.toml").read_text())["project"]
    found = [Executable(name, _command(agent, target)) for name, target in project["scripts"].items()]
    return tuple(sorted(found, key=lambda one: (one.name != agent.replace("_", "-"), one.name)))


def options(executable: Executable) -> tuple[Option, ...]:
    """Every option once, in the order in which `--help` shows them."""
    verbs: dict[Option, list[str]] = {}
    for verb, command in executable.verbs.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name not in _AUTOMATIC:
                verbs.setdefault(_option(parameter), []).append(verb)
    return tuple(Option(o.flags, o.variable, o.default, o.meaning, tuple(of)) for o, of in verbs.items())


def usage(executable: Executable, verb: str) -> str:
    """How the verb is typed, its options left out: `set MODE`."""
    arguments = [p for p in executable.verbs[verb].params if isinstance(p, click.Argument)]
    return " ".join(part for part in (verb, *(_argument(argument) for argument in arguments)) if part)


def meaning(command: click.Command) -> str:
    """What the verb does: the first paragraph of its help."""
    return " ".join((command.help or "").partition("\n\n")[0].split())


def variables(agent: str) -> Iterator[str]:
    """Every environment variable that an option of *agent* takes."""
    for executable in executables(agent):
        yield from (option.variable for option in options(executable) if option.variable)


def _command(agent: str, target: str) -> click.Command:
    module = target.partition(":")[0]
    found = getattr(importlib.import_module(module), "cli", None)
    return found if isinstance(found, click.Command) else importlib.import_module(f"{agent}.cli").cli


def _option(option: click.Option) -> Option:
    context = click.Context(click.Command("any"))
    names = " / ".join(" ".join(flags) for flags in (option.opts, option.secondary_opts) if flags)
    metavar = "" if option.is_flag else f" {_metavar(option, context)}"
    return Option(f"{names}{metavar}", _variable(option), _default(option, context), option.help or "", ())


def _metavar(option: click.Option, context: click.Context) -> str:
    if isinstance(option.type, click.types.FloatParamType | click.types.FloatRange):
        return "SECONDS" if "econds" in (option.help or "") else "NUMBER"
    return re.sub(r"^\[(.*)\]$", r"\1", option.make_metavar(context))


def _variable(option: click.Option) -> str:
    return option.envvar if isinstance(option.envvar, str) else " ".join(option.envvar or ())


def _default(option: click.Option, context: click.Context) -> str:
    if option.required:
        return "required"
    match option.get_default(context):
        case bool() | None if option.is_flag:
            return "on" if option.get_default(context) else "off"
        case float() as number:
            return f"{number:g}"
        case str() | int() as value:
            return str(value)
        case _:
            return ""


def _argument(argument: click.Argument) -> str:
    name = argument.human_readable_name.upper()
    name = f"{name} ..." if argument.nargs != 1 else name
    return name if argument.required else f"[{name}]"
