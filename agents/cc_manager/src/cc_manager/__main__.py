"""The command `cc-manager`."""

import sys

from cc_manager.cli import cli
from nodelib.cli import run_command


def main() -> int:
    """Run the command line; the exit code is what it comes to."""
    return run_command(cli)


if __name__ == "__main__":
    sys.exit(main())
