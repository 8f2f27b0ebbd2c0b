"""The command line of cc-manager."""

import click

from cc_manager.cli_by_hand import knobs, set_mode, status
from cc_manager.cli_daemon import doctor, plan_verb, restore, run
from nodelib.settings import version_option


@click.group()
@version_option("cgpu-cc-manager")
def cli() -> None:
    """Set the confidential-computing mode of this node's NVIDIA GPUs.

    Without a verb: run. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


for verb in (status, set_mode, knobs, run, plan_verb, doctor, restore):
    cli.add_command(verb)
