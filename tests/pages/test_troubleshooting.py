"""docs/troubleshooting.md: each message that it quotes is said, each check is there, no row is left out."""

import re

import pytest

from tests.pages.consoles import filled
from tests.pages.scenarios import SCENARIOS
from tests.pages.source import PACKAGES, ROOT, check_names, sentences

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
SAID = frozenset[str]().union(*map(sentences, PACKAGES))
QUOTED = re.findall(r"^> - (.+)$", PAGE, re.MULTILINE)
ROWS = range(1, 45)
"""Of facts/field-problems.md."""
UNSEEN = {43}
"""The row of which users see nothing: a name that would be another device's is never given."""


def said(message: str) -> bool:
    """Whether the source has *message*, whose words in capitals stand for anything."""
    pattern = re.compile(".+".join(map(re.escape, re.split(r"[A-Z]{3,}", message))))
    return any(pattern.search(text) for text in SAID)


def test_there_are_messages_to_look_for() -> None:
    assert len(QUOTED) > 5
    assert not said("waiting for the dinner: there is no socket PATH")


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_that_the_agents_say(message: str) -> None:
    assert said(message)


def test_every_check_that_is_asked_for_exists() -> None:
    asked = set(re.findall(r"doctor` ?\| grep ([\w-]+)", PAGE)) | set(re.findall(r"doctor \| grep ([\w-]+)`", PAGE))
    names = {name for package in PACKAGES for name in check_names(package)}
    assert len(asked) > 3
    assert asked <= names


def test_no_row_of_the_field_problems_is_left_out() -> None:
    told = {int(row) for rows in re.findall(r"<!-- field ([\d ]+) -->", PAGE) for row in rows.split()}
    assert told | UNSEEN == set(ROWS)
    assert not told & UNSEEN


def test_every_scenario_is_shown() -> None:
    assert set(re.findall(r"^<!-- on (.+) -->$", PAGE, re.MULTILINE)) | {"all well"} == set(SCENARIOS)


def test_what_is_shown_is_read_anew_each_time() -> None:
    page = "<!-- on a label that is no mode -->\n```console\n$ cc-manager status | tail -1\nfalse\n```\n"
    assert filled(page) != page
    assert filled(filled(page)) == filled(page)
    assert "false" not in filled(page)
