"""What the commands print."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodelib.output import Report, echo, grouped, render, sentence
from tests.nodelib.samples import PROPERTY

ROWS = (
    {"address": "0000:3b:00.0", "name": "GH100 [H200 SXM 141GB]", "group": 65, "in_use": True, "problems": []},
    {"address": "0000:9b:00.0", "name": None, "group": 0, "in_use": False, "problems": ["absent", "hung"]},
)
COLUMNS = {"address": "ADDRESS", "group": "GROUP", "in_use": "IN USE", "name": "NAME", "problems": "PROBLEMS"}


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_table_has_its_columns_under_one_another() -> None:
    assert render(Report(ROWS, COLUMNS), "table").splitlines() == [
        "ADDRESS       GROUP  IN USE  NAME                    PROBLEMS",
        "0000:3b:00.0  65     yes     GH100 [H200 SXM 141GB]  -",
        "0000:9b:00.0  0      no      -                       absent,hung",
    ]


def test_a_field_that_a_row_lacks_is_a_dash() -> None:
    assert render(Report(({"a": "x"},), {"a": "A", "b": "B"}), "table").splitlines()[1] == "x  -"


def test_a_table_wider_than_the_terminal_is_cut_where_a_part_tells_enough() -> None:
    row = {"address": "0000:3b:00.0", "model": "m" * 60, "driver": "nvgrace_gpu_vfio_pci"}
    report = Report((row,), {"address": "ADDRESS", "model": "MODEL", "driver": "DRIVER"})
    head, line = render(report, "table").splitlines()
    assert len(line) == 80
    assert line.split() == ["0000:3b:00.0", "m" * 42 + "..", "nvgrace_gpu_vfio_pci"]
    assert head.index("DRIVER") == line.index("nvgrace")
    assert json.loads(render(report, "json")) == [row]


@PROPERTY
@given(st.lists(st.integers(1, 120), min_size=1, max_size=3), st.integers(1, 30))
def test_a_table_fits_the_terminal_and_an_address_is_never_cut(lengths: list[int], address: int) -> None:
    row = {"address": "a" * address}
    row |= {name: "x" * length for name, length in zip(("model", "nodes", "found"), lengths, strict=False)}
    line = render(Report((row,), {name: name for name in row}), "table").splitlines()[1]
    widths = [max(len(name), len(text)) for name, text in row.items()]
    assert len(line) <= min(80, sum(widths) + 2 * (len(widths) - 1))
    assert line.startswith(row["address"])


def test_notes_stand_below_the_table_each_within_eighty_columns() -> None:
    note = "0000:3b:00.0 is on driver nvidia; run: vfio-manager bind --device 0000:3b:00.0 " * 2
    lines = render(Report(ROWS, COLUMNS, notes=(note, "short")), "table").splitlines()
    assert lines[3] == ""
    assert lines[-1] == "short"
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith("  ") for line in lines[5:-1])
    assert " ".join(" ".join(lines[4:-1]).split()) == note.strip()


def test_a_table_without_rows_says_what_is_missing_and_why() -> None:
    report = Report((), COLUMNS, notes=("switch the IOMMU on",), empty="no NVIDIA device found")
    assert render(report, "table") == "no NVIDIA device found\nswitch the IOMMU on"
    assert render(Report((), COLUMNS), "table") == "nothing found"


@pytest.mark.parametrize("rows", [ROWS, ()])
def test_programs_get_every_field_whole_and_no_notes(rows: tuple[dict[str, object], ...]) -> None:
    report = Report(rows, {"address": "ADDRESS"}, notes=("a note",))
    assert json.loads(render(report, "json")) == list(rows)
    assert yaml.safe_load(render(report, "yaml")) == list(rows)


def test_a_tuple_is_a_list_to_programs() -> None:
    report = Report(({"names": ("65", "vfio3")},), {"names": "NAMES"})
    assert json.loads(render(report, "json")) == [{"names": ["65", "vfio3"]}]
    assert yaml.safe_load(render(report, "yaml")) == [{"names": ["65", "vfio3"]}]
    assert render(report, "table").splitlines()[1] == "65,vfio3"


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_output_ends_with_one_newline(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    echo(Report(ROWS, COLUMNS), output)
    text = capsys.readouterr().out
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=4), max_size=2)


@PROPERTY
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES), max_size=3))
def test_whatever_the_rows_hold_programs_read_it_back(rows: list[dict[str, object]]) -> None:
    report = Report(tuple(rows), {"a": "A", "b": "B"})
    assert json.loads(render(report, "json")) == rows
    assert yaml.safe_load(render(report, "yaml")) == rows
    assert render(report, "table")


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("200", 100), ("10", 40)])
def test_sentences_are_as_wide_as_the_terminal_within_reason(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = sentence("word " * 60).splitlines()
    assert width - 5 < max(map(len, lines)) <= width


def test_addresses_and_flags_are_never_broken() -> None:
    flag = "--allow-group-member-" + "x" * 90
    assert flag in sentence(f"run vfio-manager bind {flag} now", indent="  ").split()


def test_devices_with_the_same_reason_share_one_note() -> None:
    notes = grouped(
        [
            ("0000:3b:00.0", "0000:3b:00.0: is on driver nvidia; bind 0000:3b:00.0"),
            ("0000:9b:00.0", "0000:9b:00.0: is on driver nvidia; bind 0000:9b:00.0"),
            ("0000:9c:00.0", "it is in no IOMMU group"),
        ]
    )
    assert notes == (
        "0000:3b:00.0 and 1 more: is on driver nvidia; bind 0000:3b:00.0",
        "0000:9c:00.0: it is in no IOMMU group",
    )
    assert grouped([]) == ()
