"""What is made from the code is as the code would make it now."""

import pytest

from tests.pages.__main__ import PAGES
from tests.pages.source import ROOT


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text() == PAGES[name](), f"{name} differs from the code; mend it with: make docs"
