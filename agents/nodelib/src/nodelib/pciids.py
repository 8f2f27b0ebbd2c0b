"""Names of NVIDIA devices, from the vendor's part of the PCI id database that ships in `data/`.

Origin: https://pci-ids.ucw.cz, version 2026.10.24, used under the 3-clause BSD licence (see the file's head).
Only vendor 10de is in the file, so an id can never be looked up in another vendor's section.
"""

from functools import cache
from pathlib import Path

_DATABASE = Path(__file__).parent / "data" / "pci-ids-10de.txt"


@cache
def names() -> dict[int, str]:
    """Every NVIDIA device id of the database with its name, read once a process."""
    return parse(_DATABASE.read_text(encoding="utf-8"))


def device_name(device: int) -> str | None:
    """The database's name of NVIDIA's *device* id, None where it has none."""
    return names().get(device)


def parse(text: str) -> dict[int, str]:
    """Device ids and names of a one-vendor database: lines of one tab, four hex digits, two blanks, a name.

    Vendor lines, subsystem lines (two tabs) and comments are passed over.
    """
    found: dict[int, str] = {}
    for line in text.splitlines():
        if line.startswith("\t") and not line.startswith("\t\t"):
            number, _, name = line.strip().partition("  ")
            found[int(number, 16)] = name
    return found
