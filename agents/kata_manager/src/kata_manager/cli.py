"""The command line of kata-manager."""

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import click

from kata_manager import report
from kata_manager.options import (
    cdi_folder_option,
    parse_runtime,
    parse_settings,
    run_options,
    runtime_options,
    spec_options,
)
from kata_manager.pid_file import NAME as PID_FILE
from kata_manager.pid_file import pid_file
from kata_manager.settings import meaningless
from nodelib.errors import NodeError
from nodelib.node import Node
from nodelib.output import echo, sentence
from nodelib.settings import (
    DaemonSettings,
    daemon_options,
    dry_run_option,
    log_options,
    node_option,
    output_option,
    version_option,
)
from nodelib.spec_files import FOLDERS, spec_text
from nodelib.wakeups import Wakeups, stop_on_signals

if TYPE_CHECKING:
    from kata_manager.reconcile import SpecKeeper

log = logging.getLogger(__name__)


@click.group()
@version_option("cgpu-kata-manager")
def cli() -> None:
    """Keep the CDI specs by which the Kata runtime finds this node's GPUs.

    Without a verb: run. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


@cli.command()
@node_option
@spec_options
@output_option
def status(node: Node, output: str, **chosen: Any) -> None:
    """Show every device's CDI name, whether it resolves now, and what is in the way."""
    from kata_manager.reconcile import SpecKeeper

    keeper = SpecKeeper(node, parse_settings(chosen))
    planned = keeper.plan()
    resolution = keeper.resolution()
    echo(report.status(keeper.last_devices, resolution, planned, keeper.left_out()), output)


@cli.command()
@node_option
@spec_options
@run_options
@output_option
def plan(node: Node, output: str, **chosen: Any) -> None:
    """Show what `run` would do, and change nothing."""
    from kata_manager.reconcile import SpecKeeper

    echo(report.plan(SpecKeeper(node, parse_settings(chosen)).plan()), output)


@cli.command()
@node_option
@spec_options
@click.option("--write", is_flag=True, help="Write the specs to the CDI folder and remove ours that are stale.")
@dry_run_option
@output_option
@log_options
def spec(node: Node, output: str, write: bool, dry_run: bool, **chosen: Any) -> None:
    """Show the specs that this node should have; with --write, write them once and exit.

    -o yaml and -o json print the specs themselves, the former as the very bytes of the files, one document each.
    """
    from kata_manager.reconcile import SpecKeeper

    keeper = SpecKeeper(node, parse_settings(chosen))
    if write:
        _write(keeper, dry_run=dry_run)
        return
    if output == "table":
        devices = keeper.devices()
        echo(report.names(devices, keeper.left_out()), output)
    elif output == "json":
        click.echo(json.dumps([spec.as_document() for spec in keeper.specs()], indent=2))
    else:
        click.echo("---\n".join(spec_text(wanted).decode() for wanted in keeper.specs()), nl=False)


@cli.command()
@node_option
@spec_options
@runtime_options
@output_option
def doctor(node: Node, output: str, **chosen: Any) -> int:
    """Tell whether pods of this node can get their GPUs: every check and its remedy. Exit code 1 if one failed."""
    from kata_manager.doctor import Where, examine
    from kata_manager.reconcile import SpecKeeper
    from nodelib.doctor import exit_code
    from nodelib.doctor import report as report_checks

    settings = parse_settings(chosen)
    checks = examine(node, SpecKeeper(node, settings), settings.cdi_folder, Where(*parse_runtime(chosen)))
    echo(report_checks(checks), output)
    return exit_code(checks)


@cli.command()
@node_option
@cdi_folder_option
@output_option
@click.argument("paths", nargs=-1, metavar="[FILE|FOLDER]...")
def check(node: Node, cdi_folder: str, output: str, paths: tuple[str, ...]) -> int:
    """Tell what is wrong with CDI specs, of any vendor. Exit code 1 if a runtime would refuse one.

    Without arguments: all files of /etc/cdi, /var/run/cdi and --cdi-dir. A path from the root is the host's.
    """
    from kata_manager import check as checking

    checked = checking.check(node, paths, dict.fromkeys((*FOLDERS, cdi_folder)))
    echo(checking.report(checked), output)
    return int(checked.has_errors)


@cli.command()
@node_option
@cdi_folder_option
@output_option
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def resolve(node: Node, cdi_folder: str, output: str, names: tuple[str, ...]) -> int:
    """Show what a runtime would inject for a CDI name like nvidia.com/pgpu=65. Exit code 1 if one does not resolve."""
    from kata_manager.resolving import check_name, resolve_names
    from nodelib.spec_folder import SpecReader

    for name in names:
        check_name(name)
    reader = SpecReader(node.host)
    folders = [reader.read(node.host.resolve(folder)) for folder in dict.fromkeys((*FOLDERS, cdi_folder))]
    answer, is_whole = resolve_names(names, folders)
    echo(answer, output)
    return int(not is_whole)


@cli.command()
@node_option
@spec_options
@run_options
@click.option(
    "--remove-on-stop",
    envvar="REMOVE_ON_STOP",
    is_flag=True,
    show_envvar=True,
    help="Take our specs away at a clean stop. Pods that start afterwards find no GPU.",
)
@click.option(
    "--node-name",
    envvar="NODE_NAME",
    default="",
    show_envvar=True,
    help="This node's name in the cluster, for Kubernetes Events; without it none are posted.",
)
@click.option(
    "--artifacts-dir",
    "artifacts_folder",
    envvar="KATA_ARTIFACTS_DIR",
    default="",
    show_envvar=True,
    help=f"Keep our process id in {PID_FILE} there, by which existing manifests probe us; not under --host-root.",
)
@daemon_options
@log_options
def run(node: Node, node_name: str, artifacts_folder: str, daemon: DaemonSettings, **chosen: Any) -> None:
    """Keep the specs right until told to stop."""
    from kata_manager.reconcile import SpecKeeper
    from nodelib.events import open_poster

    wakeups = Wakeups()
    stop_on_signals(wakeups)
    settings = parse_settings(chosen)
    for sentence_ in meaningless(os.environ):
        log.info("%s", sentence_)
    with pid_file(artifacts_folder), contextlib.closing(open_poster(os.environ, node_name, "kata-manager")) as events:
        SpecKeeper(node, settings, wakeups, events.post).run(daemon)


def _write(keeper: "SpecKeeper", *, dry_run: bool) -> None:
    planned = keeper.plan_specs() if dry_run else keeper.write()
    for step in planned.steps:
        click.echo(f"would {step}" if dry_run else f"done: {step}")
    if not planned.steps:
        click.echo("nothing to do")
    if planned.problems:
        raise NodeError("\n".join(sentence(str(problem)) for problem in planned.problems))
