"""What is made from the code is as the code would make it now."""

from difflib import unified_diff
from itertools import islice

import pytest

from tests.pages.__main__ import PAGES
from tests.pages.source import ROOT

SHOWN = 20
"""Lines of difference; all of them would hide the one command that mends it."""


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    there, made = (ROOT / name).read_text().splitlines(), PAGES[name]().splitlines()
    difference = list(islice(unified_diff(there, made, "in the repository", "from the code", lineterm="", n=0), SHOWN))
    assert not difference, "\n".join([f"{name} differs from the code; mend it with: make docs", *difference])
