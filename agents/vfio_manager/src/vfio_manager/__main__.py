"""The command `vfio-manager`."""

import sys

from nodelib.cli import run_command
from vfio_manager.cli import cli


def main() -> int:
    """Run the command line; the exit code is what it comes to."""
    return run_command(cli)


if __name__ == "__main__":
    sys.exit(main())
