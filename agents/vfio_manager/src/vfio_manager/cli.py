"""The command line of vfio-manager."""

import contextlib
import os
from dataclasses import replace
from typing import Any

import click

from nodelib.errors import InvalidValue, NodeError, NotSupported
from nodelib.events import open_poster
from nodelib.node import Node
from nodelib.output import echo, sentence
from nodelib.pci import is_vfio_driver
from nodelib.settings import (
    AddressType,
    DaemonSettings,
    Seconds,
    daemon_options,
    dry_run_option,
    log_options,
    node_option,
    options,
    output_option,
    version_option,
)
from nodelib.wakeups import Wakeups, stop_on_signals
from vfio_manager import report
from vfio_manager.plan import Plan, plan_release
from vfio_manager.reconcile import Binder, Outcome
from vfio_manager.selector import DRIVER_NAME, Selector
from vfio_manager.settings import READY_FILE, Settings, SwitchPolicy

binding_options = options(
    click.option(
        "--device",
        "only",
        multiple=True,
        type=AddressType(),
        envvar="DEVICES",
        show_envvar=True,
        help="Only this device, its slot and its IOMMU group; repeatable. Default: all.",
    ),
    click.option(
        "--include",
        multiple=True,
        envvar="INCLUDE",
        show_envvar=True,
        metavar="SELECTOR",
        help="Only GPUs and NVSwitches with this address, these PCI ids (10de:2330) or on this driver; repeatable.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        envvar="EXCLUDE",
        show_envvar=True,
        metavar="SELECTOR",
        help="Never touch what this address, these PCI ids or this driver selects; repeatable.",
    ),
    click.option(
        "--nvswitches",
        envvar="BIND_NVSWITCHES",
        default="auto",
        show_default=True,
        show_envvar=True,
        metavar="[auto|always|never]",
        help="NVSwitches to bind; auto: those without a driver or on a VFIO driver. true is always, false is never.",
    ),
    click.option(
        "--driver",
        envvar="VFIO_DRIVER",
        show_envvar=True,
        help="The VFIO driver for every device. Default: the kernel's best match for each.",
    ),
    click.option(
        "--allow-group-member",
        "allowed",
        multiple=True,
        type=AddressType(),
        envvar="ALLOW_GROUP_MEMBERS",
        show_envvar=True,
        help="A foreign device that may be bound because it shares a GPU's IOMMU group.",
    ),
    click.option(
        "--protect-driver",
        "protected",
        multiple=True,
        envvar="PROTECT_DRIVERS",
        show_envvar=True,
        help="Leave devices on this driver alone; repeatable.",
    ),
    click.option(
        "--include-vfs",
        is_flag=True,
        envvar="INCLUDE_VFS",
        show_envvar=True,
        help="Bind virtual functions (SR-IOV) too.",
    ),
    click.option(
        "--unbind-timeout",
        "unbind_timeout_s",
        envvar="UNBIND_TIMEOUT",
        default=30.0,
        show_default=True,
        show_envvar=True,
        type=Seconds(min=0.1),
        help="Seconds after which a device that the kernel does not release is given up.",
    ),
)
"""What to bind and to what: the same for every verb, so that `plan` shows what `run` will do."""


def parse_settings(binding: dict[str, Any], ready_file: str = "") -> Settings:
    """The settings that the binding options come to. Raises InvalidValue."""
    driver = binding["driver"]
    if driver is not None and not DRIVER_NAME.fullmatch(driver):
        raise InvalidValue(f"--driver {driver!r} is no driver's name: write it as in /sys/bus/pci/drivers, vfio-pci")
    if driver is not None and not is_vfio_driver(driver):
        raise InvalidValue(f"--driver {driver!r} is no VFIO driver: those are vfio-pci and names that end in vfio_pci")
    return Settings(
        nvswitches=SwitchPolicy.parse(binding["nvswitches"]),
        driver=driver,
        only=frozenset(binding["only"]),
        include=tuple(Selector.parse(text) for text in binding["include"]),
        exclude=tuple(Selector.parse(text) for text in binding["exclude"]),
        allowed_group_members=frozenset(binding["allowed"]),
        protected_drivers=frozenset(binding["protected"]),
        include_vfs=binding["include_vfs"],
        unbind_timeout_s=binding["unbind_timeout_s"],
        ready_file=ready_file,
    )


@click.group()
@version_option("cgpu-vfio-manager")
def cli() -> None:
    """Keep this node's NVIDIA GPUs (and NVSwitches) bound to their VFIO driver.

    Without a verb: run. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


@cli.command()
@node_option
@binding_options
@output_option
def status(node: Node, output: str, **binding: Any) -> None:
    """Show every NVIDIA function, its driver, and what keeps it from being given to a VM."""
    binder = Binder(node, parse_settings(binding))
    inventory = binder.scan()
    planned, choice = binder.plan(inventory)
    echo(report.status(inventory, planned, choice, binder.users(inventory)), output)


@cli.command()
@node_option
@binding_options
@output_option
def plan(node: Node, output: str, **binding: Any) -> None:
    """Show what `run` and `bind` would do, and change nothing."""
    binder = Binder(node, parse_settings(binding))
    planned, _ = binder.plan(binder.scan())
    echo(report.plan(planned), output)


@cli.command()
@node_option
@binding_options
@output_option
def doctor(node: Node, output: str, **binding: Any) -> int:
    """Tell whether this node can work: every check, what was found, and the remedy. Exit code 1 if one failed."""
    from nodelib.doctor import exit_code, report
    from vfio_manager.doctor import examine

    binder = Binder(node, parse_settings(binding))
    inventory = binder.scan()
    checks = examine(node, inventory, *binder.plan(inventory))
    echo(report(checks), output)
    return exit_code(checks)


@cli.command()
@node_option
@binding_options
@dry_run_option
@log_options
def bind(node: Node, dry_run: bool, **binding: Any) -> None:
    """Bind every GPU to its VFIO driver now, read it back, and exit."""
    binder = Binder(node, parse_settings(binding))
    if dry_run:
        planned, _ = binder.plan(binder.scan())
        _print_dry_run(planned)
        return
    report_outcome(binder.bind(), "every chosen function is on its VFIO driver")


@cli.command()
@node_option
@binding_options
@dry_run_option
@log_options
def unbind(node: Node, dry_run: bool, **binding: Any) -> None:
    """Give every idle device back to the driver that the kernel chooses for it, and exit."""
    settings = parse_settings(binding)
    binder = Binder(node, settings)
    if dry_run:
        _print_dry_run(plan_release(binder.scan(), settings))
        return
    report_outcome(binder.release(), "no chosen function is on a VFIO driver any more")


@cli.command()
@node_option
@binding_options
@click.option(
    "--ready-file",
    envvar="READY_FILE",
    default=READY_FILE,
    show_default=True,
    show_envvar=True,
    help="Written (under --host-root) while all is bound; empty: none.",
)
@click.option(
    "--release-on-stop",
    envvar="RELEASE_ON_STOP",
    is_flag=True,
    show_envvar=True,
    help="Give idle devices back to the driver that the kernel chooses when the daemon is stopped. Off by default.",
)
@click.option(
    "--node-name",
    envvar="NODE_NAME",
    default="",
    show_envvar=True,
    help="This node's name in the cluster, for Kubernetes Events; without it none are posted.",
)
@daemon_options
@log_options
def run(
    node: Node, ready_file: str, release_on_stop: bool, node_name: str, daemon: DaemonSettings, **binding: Any
) -> None:
    """Keep every GPU bound until told to stop. Stopping releases none, unless asked to."""
    wakeups = Wakeups()
    stop_on_signals(wakeups)
    settings = replace(parse_settings(binding, ready_file), release_on_stop=release_on_stop)
    with contextlib.closing(open_poster(os.environ, node_name, "vfio-manager")) as events:
        Binder(node, settings, wakeups, events.post).run(daemon)


def _print_dry_run(plan: Plan) -> None:
    for step in plan.steps:
        click.echo(f"would {step}")
    for refusal in plan.refusals:
        click.echo(sentence(f"would leave {refusal}"))
    if not plan.steps and not plan.refusals:
        click.echo("nothing to do")


def report_outcome(outcome: Outcome, done: str) -> None:
    """Say what came of it. Raises NodeError if it is not what was asked for."""
    if outcome.ok:
        click.echo(done)
        return
    unsupported = outcome.refusals and all(refusal.problem.code == "no-iommu" for refusal in outcome.refusals)
    kind = NotSupported if unsupported and not (outcome.failures or outcome.unseen) else NodeError
    raise kind("\n".join(("not everything was done:", *outcome.reasons)))
