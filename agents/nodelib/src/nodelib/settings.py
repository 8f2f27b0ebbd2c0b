"""The options that all agents share, and how a flag, its environment variable and its check become one setting."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from nodelib.errors import InvalidValue
from nodelib.names import alias_problem
from nodelib.pci import PciAddress
from nodelib.vfio import Naming, VfioMode

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class CommonSettings:
    """What every agent's command line begins with."""

    host_root: Path
    log_format: str
    log_level: str


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


def host_root_option(function: F) -> F:
    return click.option(
        "--host-root",
        envvar="HOST_ROOT",
        default="/",
        show_default=True,
        show_envvar=True,
        type=click.Path(path_type=Path),
        help="Where the host's root file system is; links are followed inside it.",
    )(function)


def log_options(function: F) -> F:
    """`--log-format` and `--log-level`."""
    function = click.option(
        "--log-format",
        envvar="LOG_FORMAT",
        default="text",
        show_default=True,
        show_envvar=True,
        type=click.Choice(["text", "json"]),
        help="One line an event: for people or for machines.",
    )(function)
    return click.option(
        "--log-level",
        envvar="LOG_LEVEL",
        default="info",
        show_default=True,
        show_envvar=True,
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="The least level that is logged.",
    )(function)


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


def daemon_options(function: F) -> F:
    """`--interval` and `--listen`: what every `run` has."""
    function = click.option(
        "--interval",
        "interval_s",
        envvar="INTERVAL",
        default=30.0,
        show_default=True,
        show_envvar=True,
        type=click.FloatRange(min=0.1),
        help="Seconds after which the node is looked at again without any event.",
    )(function)
    return click.option(
        "--listen",
        envvar="LISTEN",
        default="",
        show_envvar=True,
        help="Serve /healthz, /readyz and /metrics at ADDRESS:PORT; off by default.",
    )(function)


def naming_options(function: F) -> F:
    """The aliases and the VFIO mode: kata-manager and device-plugin must be given the same."""
    for option in (
        click.option(
            "--gpu-alias",
            envvar="P_GPU_ALIAS",
            default="pgpu",
            show_default=True,
            show_envvar=True,
            help="Resource name of GPUs after nvidia.com/; empty: one resource per model.",
        ),
        click.option(
            "--nvswitch-alias",
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
    ):
        function = option(function)
    return function


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
            import importlib.metadata  # noqa: PLC0415 - 7 MiB that no other verb needs

            click.echo(f"{ctx.info_name} {importlib.metadata.version(distribution)}")
            ctx.exit()

    return click.option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=print_version, help="Show the version."
    )
