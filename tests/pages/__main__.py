"""`python -m tests.pages [--check]`: write what is generated below docs/; with --check only say what differs."""

import sys
from collections.abc import Callable
from functools import partial

from tests.pages import consoles, operations, picture
from tests.pages.source import ROOT

PAGES: dict[str, Callable[[], str]] = {
    "docs/operations.md": operations.page,
    "docs/pictures/node.svg": picture.page,
    "docs/troubleshooting.md": partial(consoles.page, "docs/troubleshooting.md"),
}
"""Each file that is made from the code, wholly or in parts, and what makes its text."""


def stale() -> dict[str, str]:
    """The files that are not as the code would make them, and the text that each should have."""
    made = {name: make() for name, make in PAGES.items()}
    return {
        name: text for name, text in made.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text
    }


def main(*arguments: str) -> int:
    """Write or check; the exit code."""
    differing = stale()
    for name, text in differing.items():
        if "--check" not in arguments:
            (ROOT / name).write_text(text)
        print(f"{name} {'differs from the code; mend it with: make docs' if '--check' in arguments else 'written'}")
    return int(bool(differing)) if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
