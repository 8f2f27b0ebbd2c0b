"""The command `vfio-manage`, with the verbs, flags and effects that existing manifests and scripts rely on.

Names and effects: facts/labels-and-settings.md ("Under an existing GPU operator"). What it does is vfio-manager's.
"""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from nodelib.cli import run_command
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.settings import AddressType, DaemonSettings, log_options, node_option, options, version_option
from nodelib.wakeups import Wakeups, stop_on_signals
from vfio_manager.cli import report_outcome
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings, SwitchPolicy

R = TypeVar("R")

STAY = DaemonSettings(interval_s=30.0, listen="")


def which_devices(function: Callable[..., R]) -> Callable[..., R]:
    """`--all` or `--device-id`; the verb gets the addresses as `only`, none for all."""

    @options(
        click.option("-a", "--all", "all_devices", is_flag=True, help="All GPUs (and NVSwitches, if asked for)."),
        click.option("-d", "--device-id", "device", type=AddressType(), help="The device at this PCI address."),
    )
    @wraps(function)
    def with_devices(*args: Any, all_devices: bool, device: PciAddress | None, **kwargs: Any) -> R:
        if all_devices == (device is not None):
            raise click.UsageError("give either --all or --device-id ADDRESS")
        return function(*args, only=frozenset([device] if device else []), **kwargs)

    return with_devices


@click.group()
@version_option("cgpu-vfio-manager")
def cli() -> None:
    """Bind NVIDIA GPUs to their VFIO driver, or unbind them: the syntax of existing manifests.

    vfio-manager does the same and tells more.
    """


@cli.command()
@node_option
@which_devices
@click.option(
    "--bind-nvswitches",
    envvar="BIND_NVSWITCHES",
    is_flag=True,
    show_envvar=True,
    help="Bind NVSwitches too.",
)
@click.option("--stay", is_flag=True, help="Remain as the daemon, which binds what appears later.")
@log_options
def bind(node: Node, only: frozenset[PciAddress], bind_nvswitches: bool, stay: bool) -> None:
    """Bind the devices to their VFIO driver and read it back."""
    settings = Settings(nvswitches=_policy(always=bind_nvswitches), only=only, ready_file="")
    if stay:
        wakeups = Wakeups()
        stop_on_signals(wakeups)
        Binder(node, settings, wakeups).run(STAY)
        return
    report_outcome(Binder(node, settings).bind(), "every chosen function is on its VFIO driver")


@cli.command()
@node_option
@which_devices
@click.option("--unbind-nvswitches", is_flag=True, help="Unbind NVSwitches too.")
@log_options
def unbind(node: Node, only: frozenset[PciAddress], unbind_nvswitches: bool) -> None:
    """Leave the devices without a driver and without an override. Devices in use are skipped and named."""
    settings = Settings(nvswitches=_policy(always=unbind_nvswitches), only=only, ready_file="")
    report_outcome(Binder(node, settings).release(probe=False), "no chosen function is on a VFIO driver any more")


def main() -> int:
    """Run the command line; the exit code is what it comes to."""
    return run_command(cli)


def _policy(*, always: bool) -> SwitchPolicy:
    return SwitchPolicy.ALWAYS if always else SwitchPolicy.NEVER


if __name__ == "__main__":
    sys.exit(main())
