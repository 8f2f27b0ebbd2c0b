"""The picture in README.md: well-formed, and everything in it within its frame and within its box."""

import re
from itertools import combinations
from xml.etree import ElementTree as ET

from tests.pages import picture
from tests.pages.source import AGENTS

SVG = "{http://www.w3.org/2000/svg}"
WIDEST = {"title": 9.0, "mono": 7.0, "note": 6.6, "": 7.2}
"""Pixels that a character of each kind takes in the widest of the fonts that may be used."""


def test_every_agent_is_in_the_picture() -> None:
    texts = [text.text for text in ET.fromstring(picture.page()).iter(f"{SVG}text")]
    for agent in AGENTS:
        assert agent.replace("_", "-") in texts


def test_nothing_stands_out_of_the_frame() -> None:
    _, _, width, height = map(float, ET.fromstring(picture.page()).attrib["viewBox"].split())
    points = [
        (float(x), float(y))
        for path in ET.fromstring(picture.page()).findall(f"{SVG}path")
        for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.attrib["d"])
    ]
    for x, y, wide, high in _boxes():
        points += [(x, y), (x + wide, y + high)]
    assert len(points) > 50
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_no_text_runs_out_of_its_box() -> None:
    boxes = _boxes()
    for text in ET.fromstring(picture.page()).iter(f"{SVG}text"):
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        around = min((b for b in boxes if b[0] <= x <= b[0] + b[2] and b[1] <= y <= b[1] + b[3]), key=lambda b: b[2])
        end = x + len(text.text or "") * WIDEST[text.attrib.get("class", "")]
        assert end <= around[0] + around[2], f"{text.text!r} may be cut"


def test_no_box_covers_another() -> None:
    inner = [box for box in _boxes() if box[2] < 900]
    assert len(inner) == 13
    for (x, y, wide, high), (other_x, other_y, other_wide, other_high) in combinations(inner, 2):
        apart = x + wide < other_x or other_x + other_wide < x or y + high < other_y or other_y + other_high < y
        assert apart


def _boxes() -> list[tuple[float, float, float, float]]:
    rectangles = ET.fromstring(picture.page()).iter(f"{SVG}rect")
    x_y_w_h = ("x", "y", "width", "height")
    return [tuple(float(one.attrib[name]) for name in x_y_w_h) for one in rectangles]  # type: ignore[misc]
