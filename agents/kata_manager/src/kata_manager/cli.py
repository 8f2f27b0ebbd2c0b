"""The command line of kata-manager."""

import json
from typing import TYPE_CHECKING

import click

from kata_manager import report
from kata_manager.settings import Settings
from nodelib.errors import InvalidValue, NodeError
from nodelib.node import Node
from nodelib.output import echo, sentence
from nodelib.settings import (
    DaemonSettings,
    daemon_options,
    dry_run_option,
    log_options,
    naming_options,
    node_option,
    output_option,
    version_option,
)
from nodelib.spec_files import DYNAMIC_FOLDER, spec_text
from nodelib.vfio import Naming
from nodelib.wakeups import Wakeups, stop_on_signals

if TYPE_CHECKING:
    from kata_manager.reconcile import SpecKeeper

cdi_folder_option = click.option(
    "--cdi-dir",
    "cdi_folder",
    envvar="CDI_DIR",
    default=DYNAMIC_FOLDER,
    show_default=True,
    show_envvar=True,
    help="The host's folder for our specs, under --host-root.",
)


@click.group()
@version_option("cgpu-kata-manager")
def cli() -> None:
    """Keep the CDI specs by which the Kata runtime finds this node's GPUs.

    Without a verb: run. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


@cli.command()
@node_option
@naming_options
@cdi_folder_option
@click.option("--write", is_flag=True, help="Write the specs to the CDI folder and remove ours that are stale.")
@dry_run_option
@output_option
@log_options
def spec(node: Node, naming: Naming, cdi_folder: str, output: str, **flags: bool) -> None:
    """Show the specs that this node should have; with --write, write them once and exit.

    -o yaml prints the very bytes of the files, one YAML document each.
    """
    from kata_manager.reconcile import SpecKeeper

    keeper = SpecKeeper(node, parse_settings(naming, cdi_folder))
    if flags["write"]:
        _write(keeper, dry_run=flags["dry_run"])
        return
    devices = keeper.devices()
    if output == "table":
        echo(report.names(devices, keeper.left_out()), output)
    elif output == "json":
        click.echo(json.dumps([spec.as_document() for spec in keeper.specs()], indent=2))
    else:
        click.echo("---\n".join(spec_text(wanted).decode() for wanted in keeper.specs()), nl=False)


@cli.command()
@node_option
@naming_options
@cdi_folder_option
@click.option(
    "--remove-on-stop",
    envvar="REMOVE_ON_STOP",
    is_flag=True,
    show_envvar=True,
    help="Take our specs away at a clean stop. Pods that start afterwards find no GPU.",
)
@daemon_options
@log_options
def run(node: Node, naming: Naming, cdi_folder: str, remove_on_stop: bool, daemon: DaemonSettings) -> None:
    """Keep the specs right until told to stop."""
    from kata_manager.reconcile import SpecKeeper

    wakeups = Wakeups()
    stop_on_signals(wakeups)
    SpecKeeper(node, parse_settings(naming, cdi_folder, remove_on_stop=remove_on_stop), wakeups).run(daemon)


def parse_settings(naming: Naming, cdi_folder: str, *, remove_on_stop: bool = False) -> Settings:
    """The settings that the options come to. Raises InvalidValue."""
    if not cdi_folder.startswith("/"):
        raise InvalidValue(f"--cdi-dir {cdi_folder!r} must be a path of the host from its root, as {DYNAMIC_FOLDER} is")
    return Settings(naming, cdi_folder, remove_on_stop)


def _write(keeper: "SpecKeeper", *, dry_run: bool) -> None:
    planned = keeper.plan() if dry_run else keeper.write()
    for step in planned.steps:
        click.echo(f"would {step}" if dry_run else f"done: {step}")
    if not planned.steps:
        click.echo("nothing to do")
    if planned.problems:
        raise NodeError("\n".join(sentence(str(problem)) for problem in planned.problems))
