"""The command `device-plugin`."""

import sys

from device_plugin.cli import cli
from nodelib.cli import run_command


def main() -> int:
    """Run the command line; the exit code is what it comes to."""
    return run_command(cli)


if __name__ == "__main__":
    sys.exit(main())
