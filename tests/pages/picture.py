"""docs/pictures/node.svg: the node, and who does what on it.

Drawn by hand and on its own light ground, so that it reads well on a light and on a dark page.
"""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 960, 584
_LEFT, _COLUMN, _GAP = 40, 205, 20
_STYLE = """\
  text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; fill: #1f2933 }
  .title { font-weight: 600; font-size: 15px }
  .mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 11.5px }
  .note { font-size: 12px; fill: #52606d }
  .ground { fill: #fbfcfd; stroke: #cbd2d9 }
  .node { fill: #f1f4f7; stroke: #9aa5b1; stroke-dasharray: 6 4 }
  .agent { fill: #dff3e3; stroke: #2f7d46; stroke-width: 1.5 }
  .state { fill: #ffffff; stroke: #7b8794 }
  .outside { fill: #e3ecfa; stroke: #3f68b5 }
  .hardware { fill: #fdf0d9; stroke: #b7791f }
  .arrow { fill: none; stroke: #3e4c59; stroke-width: 1.5; marker-end: url(#head) }
  .both { marker-start: url(#tail) }"""
_HEADS = """\
 <defs>
  <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
   <path d="M0 0 L8 4 L0 8 z" fill="#3e4c59"/>
  </marker>
  <marker id="tail" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" markerHeight="7" orient="auto">
   <path d="M8 0 L0 4 L8 8 z" fill="#3e4c59"/>
  </marker>
 </defs>"""


class _Area(NamedTuple):
    x: float
    y: float
    width: float
    height: float


def page() -> str:
    """The whole picture."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img"',
        f'  viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">',
        " <title>A node with the four agents, and what each of them changes</title>",
        f" <style>\n{_STYLE}\n </style>",
        _HEADS,
        f' <rect class="ground" x="1" y="1" width="{_WIDTH - 2}" height="{_HEIGHT - 2}" rx="10"/>',
        *_cluster(),
        *_agents(),
        *_meeting_places(),
        *_machine(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _cluster() -> list[str]:
    """What people write: a label and a pod."""
    return [
        _box("outside", _Area(_x(0), 22, _span(2), 62), "Administrator", ["~label on the Node: nvidia.com/cc.mode=on"]),
        _box("outside", _Area(_x(2), 22, _span(2), 62), "Pod", ["~nvidia.com/pgpu: 1, runtime class kata-..."]),
        '<rect class="node" x="20" y="118" width="920" height="446" rx="10"/>',
        _text("note", 32, 137, "the node"),
    ]


def _agents() -> list[str]:
    told = (
        ("vfio-manager", ["keeps every GPU on its", "VFIO driver"]),
        ("cc-manager", ["sets the confidential", "mode, and verifies it"]),
        ("device-plugin", ["advertises each GPU with", "its health; allocates it"]),
        ("kata-manager", ["writes the CDI specs that", "name each GPU"]),
    )
    boxes = [_box("agent", _Area(_x(i), 152, _COLUMN, 82), name, lines) for i, (name, lines) in enumerate(told)]
    return [
        *boxes,
        _arrow([(_x(1) + 102, 84), (_x(1) + 102, 152)], both=True),
        _text("note", _x(1) + 112, 108, "cc.mode.state, cc.ready.state"),
    ]


def _meeting_places() -> list[str]:
    """What the agents leave on the node; they meet nowhere else."""
    told = (
        ("/sys", ["~driver_override, bind", "~→ /dev/vfio/65"]),
        ("BAR0 and reset", ["~stage, reset, read back", "~mode: on"]),
        ("kubelet", ["~nvidia.com/pgpu: 8", "~this pod has 65"]),
        ("/var/run/cdi", ["~nvidia.com/pgpu=65", "~→ /dev/vfio/65"]),
    )
    boxes = [_box("state", _Area(_x(i), 288, _COLUMN, 82), name, lines) for i, (name, lines) in enumerate(told)]
    down = [_arrow([(_x(i) + 102, 234), (_x(i) + 102, 288)], both=i == 2) for i in range(4)]
    beside = _x(3) - _GAP / 2
    return [
        *boxes,
        *down,
        _arrow([(beside, 84), (beside, 329), (_x(2) + _COLUMN, 329)]),
    ]


def _machine() -> list[str]:
    machine = ["IOMMU group 65: the smallest thing that can be given away"]
    runtime = ["asks the kubelet for the pod's ids, resolves 65 in CDI"]
    left, right = _x(0) + _span(2), _x(2)
    return [
        _box("hardware", _Area(_x(0), 424, _span(2), 62), "GPUs and NVSwitches", machine),
        _box("state", _Area(_x(2), 424, _span(2), 62), "Kata runtime", runtime),
        _arrow([(_x(0) + 102, 370), (_x(0) + 102, 424)]),
        _arrow([(_x(1) + 102, 370), (_x(1) + 102, 424)]),
        _arrow([(_x(2) + 102, 370), (_x(2) + 102, 424)]),
        _arrow([(_x(3) + 102, 370), (_x(3) + 102, 424)]),
        _box("hardware", _Area(_x(2), 518, _span(2), 34), "Confidential VM of the pod, with its GPU", []),
        _arrow([(_x(3) - _GAP / 2, 486), (_x(3) - _GAP / 2, 518)]),
        _arrow([(left - 102, 486), (left - 102, 535), (right, 535)]),
        _text("mono", left - 268, 539, "opened as /dev/vfio/65"),
    ]


def _x(column: int) -> float:
    return _LEFT + column * (_COLUMN + _GAP)


def _span(columns: int) -> float:
    return columns * _COLUMN + (columns - 1) * _GAP


def _box(kind: str, area: _Area, title: str, lines: Sequence[str]) -> str:
    """A box with a title and lines below it; a line that begins with `~` is something that is typed."""
    x, y, width, height = area
    parts = [f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>']
    parts.append(_text("title", x + 12, y + 23, title))
    for number, line in enumerate(lines):
        parts.append(_text("mono" if line.startswith("~") else "", x + 12, y + 46 + 19 * number, line.lstrip("~")))
    return "\n ".join(parts)


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _arrow(points: Sequence[tuple[float, float]], *, both: bool = False) -> str:
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="arrow{" both" if both else ""}" d="M{path}"/>'
