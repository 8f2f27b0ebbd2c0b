"""The options that all agents share, and how a flag, its environment variable and its check become one setting."""

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from nodelib import logs
from nodelib.errors import InvalidValue
from nodelib.names import alias_problem
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.vfio import Naming, VfioMode

_DAY_S = 86_400.0

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What every `run` is told beside its own."""

    interval_s: float
    listen: str


class AddressType(click.ParamType[PciAddress]):
    """A full PCI address; anything less is refused, never matched by a part of it."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PciAddress:
        if isinstance(value, PciAddress):
            return value
        try:
            return PciAddress.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several `click.option` as one decorator, shown by `--help` in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def node_option(function: Callable[..., R]) -> Callable[..., R]:
    """`--host-root`; the verb gets the `node` behind it.

    A simulated node comes as the context's `obj` (a Node, or something with a `node`), which is how tests and the
    demo run the whole command line without a real kernel.
    """

    @click.option(
        "--host-root",
        envvar="HOST_ROOT",
        default="/",
        show_default=True,
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="Where the host's root file system is; links are followed inside it.",
    )
    @click.pass_context
    @functools.wraps(function)
    def with_node(ctx: click.Context, /, *args: Any, host_root: Path, **kwargs: Any) -> R:
        brought = getattr(ctx.obj, "node", ctx.obj)
        if isinstance(brought, Node):
            return function(*args, node=brought, **kwargs)
        node = Node.at(host_root)
        ctx.call_on_close(node.sysfs.close)
        return function(*args, node=node, **kwargs)

    return with_node


def log_options(function: Callable[..., R]) -> Callable[..., R]:
    """`--log-format` and `--log-level`; logging is set up before the verb begins."""

    @options(
        click.option(
            "--log-format",
            envvar="LOG_FORMAT",
            default="text",
            show_default=True,
            show_envvar=True,
            type=click.Choice(["text", "json"]),
            help="One line an event: for people or for machines.",
        ),
        click.option(
            "--log-level",
            envvar="LOG_LEVEL",
            default="info",
            show_default=True,
            show_envvar=True,
            type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
            help="The least level that is logged.",
        ),
    )
    @functools.wraps(function)
    def with_logs(*args: Any, log_format: str, log_level: str, **kwargs: Any) -> R:
        logs.set_up(log_format, log_level)
        return function(*args, **kwargs)

    return with_logs


class Seconds(click.FloatRange):
    """A duration within limits; a comparison alone lets `nan` through, and `inf` where there is no upper one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not math.isfinite(seconds := float(super().convert(value, param, ctx))):
            self.fail(f"{seconds} is not a number of seconds", param, ctx)
        return seconds


def daemon_options(function: Callable[..., R]) -> Callable[..., R]:
    """`--interval` and `--listen`; the verb gets them as `daemon`."""

    @options(
        click.option(
            "--interval",
            "interval_s",
            envvar="INTERVAL",
            default=30.0,
            show_default=True,
            show_envvar=True,
            type=Seconds(min=0.1, max=_DAY_S),
            help="Seconds after which the node is looked at again without any event.",
        ),
        click.option(
            "--listen",
            envvar="LISTEN",
            default="",
            show_envvar=True,
            help="Serve /healthz, /readyz and /metrics at ADDRESS:PORT; off by default.",
        ),
    )
    @functools.wraps(function)
    def with_daemon(*args: Any, interval_s: float, listen: str, **kwargs: Any) -> R:
        return function(*args, daemon=DaemonSettings(interval_s, listen), **kwargs)

    return with_daemon


def output_option(function: F) -> F:
    return click.option(
        "-o",
        "--output",
        envvar="OUTPUT",
        default="table",
        show_default=True,
        show_envvar=True,
        type=click.Choice(["table", "json", "yaml"]),
        help="A table for people, or stable JSON or YAML for programs.",
    )(function)


def dry_run_option(function: F) -> F:
    return click.option(
        "--dry-run",
        envvar="DRY_RUN",
        is_flag=True,
        show_envvar=True,
        help="Print what would be done and change nothing.",
    )(function)


class _MayBeEmpty(click.Option):
    """An option whose variable may be set to nothing, which means something; click would take it for not set."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        return os.environ.get(self.envvar) if isinstance(self.envvar, str) else super().resolve_envvar_value(ctx)


def naming_options(function: Callable[..., R]) -> Callable[..., R]:
    """Aliases and VFIO mode, the same for kata-manager and device-plugin; the verb gets them as `naming`."""

    @options(
        click.option(
            "--gpu-alias",
            cls=_MayBeEmpty,
            envvar="P_GPU_ALIAS",
            default="pgpu",
            show_default=True,
            show_envvar=True,
            help="Resource name of GPUs after nvidia.com/; empty: one resource per model.",
        ),
        click.option(
            "--nvswitch-alias",
            cls=_MayBeEmpty,
            envvar="NVSWITCH_ALIAS",
            default="nvswitch",
            show_default=True,
            show_envvar=True,
            help="The same for NVSwitches.",
        ),
        click.option(
            "--vfio-mode",
            envvar="VFIO_MODE",
            default="auto",
            show_default=True,
            show_envvar=True,
            type=click.Choice([mode.value for mode in VfioMode]),
            help="Which VFIO interface is handed out; auto decides for each device.",
        ),
    )
    @functools.wraps(function)
    def with_naming(*args: Any, gpu_alias: str, nvswitch_alias: str, vfio_mode: str, **kwargs: Any) -> R:
        return function(*args, naming=parse_naming(gpu_alias, nvswitch_alias, vfio_mode), **kwargs)

    return with_naming


def parse_naming(gpu_alias: str, nvswitch_alias: str, vfio_mode: str) -> Naming:
    """The naming that the options ask for. Raises InvalidValue for an alias that cannot be a name."""
    for flag, alias in (("--gpu-alias", gpu_alias), ("--nvswitch-alias", nvswitch_alias)):
        if alias and (problem := alias_problem(alias)):
            raise InvalidValue(f"{flag}: {problem}")
    if gpu_alias and gpu_alias == nvswitch_alias:
        raise InvalidValue(f"--gpu-alias and --nvswitch-alias are both {gpu_alias!r}: one name cannot mean two things")
    return Naming(gpu_alias, nvswitch_alias, VfioMode(vfio_mode))


def version_option(distribution: str) -> Callable[[F], F]:
    """`--version` from the installed package's metadata, which is read only when asked for."""

    def print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            import importlib.metadata  # 7 MiB that no other verb needs

            click.echo(f"{ctx.info_name} {importlib.metadata.version(distribution)}")
            ctx.exit()

    return click.option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=print_version, help="Show the version."
    )
