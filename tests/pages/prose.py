"""The hand-written pages, taken apart: links and anchors, and the commands that they tell people to type."""

import re
from pathlib import Path

from tests.pages.source import ROOT

PAGES = tuple(
    sorted(
        path
        for pattern in ("README.md", "docs/*.md", "agents/*/README.md", "deploy/README.md", "proto/README.md")
        for path in ROOT.glob(pattern)
    )
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def links(page: Path) -> list[tuple[Path, str]]:
    """Where the links of *page* lead: a file or folder of ours, and a heading in it or nothing."""
    found = _LINK.findall(_without_fences(page.read_text()))
    return [((page.parent / target).resolve() if target else page, anchor) for target, anchor in found]


def anchors(page: Path) -> set[str]:
    """The headings of *page* as a link names them."""
    return {_slug(heading) for heading in _HEADING.findall(_without_fences(page.read_text()))}


def commands(page: Path) -> list[str]:
    """What *page* tells people to type, without comments: lines of `sh` and `console` blocks, code within a line."""
    text = page.read_text()
    lines: list[str] = []
    for language, body in _FENCE.findall(text.replace("\\\n", " ")):
        if language == "sh":
            lines += body.splitlines()
        elif language in ("", "console"):
            lines += [line[2:] for line in body.splitlines() if line.startswith("$ ")]
    lines += _INLINE.findall(_without_fences(text))
    return [re.split(r"\s+#\s|\s\|\s", line)[0].strip() for line in lines]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of *page* in *language*."""
    return [body for found, body in _FENCE.findall(page.read_text()) if found == language]


def code(page: Path) -> set[str]:
    """The words of *page* that are code within a line, each for itself."""
    return {
        word.strip(",;:=()") for part in _INLINE.findall(_without_fences(page.read_text())) for word in part.split()
    }


def flags(page: Path) -> set[str]:
    """Every long flag that *page* names in code."""
    text = page.read_text()
    code = [body for _, body in _FENCE.findall(text)] + _INLINE.findall(_without_fences(text))
    return {flag for part in code for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", part)}


def _without_fences(text: str) -> str:
    return _FENCE.sub("", text)


def _slug(heading: str) -> str:
    """As GitHub and its like make it: lower case, punctuation gone, blanks to dashes."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
