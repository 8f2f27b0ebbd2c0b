"""From `main` to an exit code: the one place where our errors become a sentence and a number."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from nodelib.errors import NodeError


def run_command(
    command: click.Command, args: Sequence[str] | None = None, obj: object = None, *, default: Sequence[str] = ()
) -> int:
    """Run *command* and give its exit code: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.

    *args* are the process's own unless given, and *default* is what no arguments at all mean. *obj* takes the place
    of the host's own kernel, kubelet or API server in tests and in the demo.
    """
    told = list(sys.argv[1:] if args is None else args) or list(default)
    try:
        result = command.main(args=told, obj=obj, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        return 1
    except NodeError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:
        # The reader went away (`status | head`). Point stdout elsewhere, or the interpreter complains at its end.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1
    return result if isinstance(result, int) else 0
