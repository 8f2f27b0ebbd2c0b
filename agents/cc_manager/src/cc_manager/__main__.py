"""The command `cc-manager`."""

import sys

from cc_manager.cli import cli
from nodelib.cli import run_command


def main() -> int:
    """Run the command line; the exit code is what it comes to. Existing manifests give no arguments at all."""
    return run_command(cli, default=["run"])


if __name__ == "__main__":
    sys.exit(main())
