"""Small readings of the host for `doctor`: what cannot be read is said to be unknown, never guessed."""

import os

from nodelib.errors import InvalidValue
from nodelib.files import HostRoot

_READ_BYTES = 65536


def names_in(host: HostRoot, folder: str) -> list[str]:
    """The names in a folder of the host, unsorted; none where it cannot be read."""
    try:
        return os.listdir(host.resolve(folder))  # noqa: PTH208 - names alone
    except (OSError, InvalidValue):
        return []


def start_of(host: HostRoot, path: str) -> str | None:
    """The start of a small file of the host; None where it cannot be read."""
    try:
        with host.resolve(path).open("rb") as file:
            return file.read(_READ_BYTES).decode("ascii", "replace").strip()
    except (OSError, ValueError, InvalidValue):
        return None
