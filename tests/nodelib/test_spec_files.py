"""CDI spec files as values. facts/kubelet-cdi-kata-contract.md, section CDI."""

import json
from pathlib import Path

import pytest
import yaml

from nodelib.cdi import CdiDevice, CdiSpec
from nodelib.spec_files import MARKER, SpecFormat, parse_file, spec_file_name, spec_text

SPEC = CdiSpec("nvidia.com/pgpu", (CdiDevice("65", ("/dev/vfio/65",)), CdiDevice("0000:3b:00.0", ("/dev/vfio/65",))))


def foreign(kind: str = "vendor.com/gpu", name: str = "a", node: str = "/dev/a") -> bytes:
    device = {"name": name, "containerEdits": {"deviceNodes": [{"path": node}]}}
    return yaml.safe_dump({"cdiVersion": "0.5.0", "kind": kind, "devices": [device]}).encode()


# --- what we write


def test_our_file_is_named_after_its_kind_and_marked_by_a_comment() -> None:
    assert spec_file_name("nvidia.com/pgpu") == "nvidia.com-pgpu.yaml"
    text = spec_text(SPEC).decode()
    assert text.startswith(f"{MARKER}: ")
    assert yaml.safe_load(text) == SPEC.as_document()


def test_equal_specs_give_equal_bytes_and_read_back_the_same() -> None:
    assert spec_text(SPEC) == spec_text(CdiSpec(SPEC.kind, SPEC.devices))
    file = parse_file(Path("nvidia.com-pgpu.yaml"), spec_text(SPEC))
    assert file.spec == SPEC
    assert file.is_marked


def test_json_holds_the_same_and_reads_back_the_same() -> None:
    text = spec_text(SPEC, SpecFormat.JSON)
    assert json.loads(text) == SPEC.as_document()
    assert parse_file(Path("x.json"), text).spec == SPEC
    assert spec_file_name(SPEC.kind, SpecFormat.JSON) == "nvidia.com-pgpu.json"


def test_a_name_of_digits_stays_a_text_in_the_file() -> None:
    """YAML would read a bare 65 as a number, and runtimes refuse the whole file."""
    spec = CdiSpec("nvidia.com/pgpu", tuple(CdiDevice(n, ("/dev/vfio/65",)) for n in ("65", "0x1", "1e3", "010", "no")))
    assert parse_file(Path("x.yaml"), spec_text(spec)).spec == spec


# --- whose a file is


MOUNT = b"    mounts: [{hostPath: /a, containerPath: /b}]\n"


@pytest.mark.parametrize(
    ("content", "whose"),
    [
        (spec_text(SPEC), "marked"),
        (MARKER.encode() + b"\nbroken: [", "marked"),  # a mark is enough
        (spec_text(SPEC, SpecFormat.JSON), "marked"),  # byte for byte what we write for what is in it
        (spec_text(SPEC, SpecFormat.JSON) + b"\n", "left"),
        (foreign("nvidia.com/pgpu", "65", "/dev/vfio/65"), "left"),  # by another tool of the same purpose
        (foreign("nvidia.com/pgpu", "65", "/dev/nvidia0"), "foreign"),
        (foreign("nvidia.com/gpu", "65", "/dev/vfio/65"), "foreign"),
        (foreign("nvidia.com/pgpu").replace(b"deviceNodes:\n    - path: /dev/a", b"env: [A=b]"), "foreign"),
        (foreign("nvidia.com/pgpu", "65", "/dev/vfio/65").replace(b"  name:", MOUNT + b"  name:"), "foreign"),
        (foreign("nvidia.com/pgpu", "65", "/dev/vfio/65") + b"containerEdits: {env: [A=b]}\n", "foreign"),
        (b"broken: [", "foreign"),
        (b"{", "foreign"),
    ],
)
def test_a_file_is_ours_by_its_mark_or_as_a_spec_of_vfio_nodes_of_our_kind(content: bytes, whose: str) -> None:
    file = parse_file(Path("nvidia.com-pgpu.yaml"), content)
    assert file.is_marked is (whose == "marked")
    assert file.is_left_by_another(["nvidia.com/pgpu"]) is (whose == "left")
    assert not file.is_left_by_another(["nvidia.com/other"])


@pytest.mark.parametrize("name", ["copy.yaml", "nvidia.com-.yaml", "nvidia.com-pgpu.old.yaml", "other.com-pgpu.yaml"])
def test_under_a_name_that_is_not_ours_no_file_is(name: str) -> None:
    for content in (spec_text(SPEC), spec_text(SPEC, SpecFormat.JSON), foreign(SPEC.kind, "65", "/dev/vfio/65")):
        file = parse_file(Path(name), content)
        assert not file.is_marked
        assert not file.is_left_by_another([SPEC.kind])


# --- reading


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: b\nc: '\n", "line 3: neither JSON nor YAML"),
        (b"a: 1\nb: {[x]: y}\n", "line 2: neither JSON nor YAML"),
        (b"\xff\xfe\xfa", "neither JSON nor YAML"),
        (b"when: 2026-13-45", "neither JSON nor YAML"),
        (b"\x00", "neither JSON nor YAML"),
        (b"", "this is not a mapping"),
        (b"!!python/object/apply:os.getcwd []", "neither JSON nor YAML"),
        (b"a: b\n---\nc: d\n", "neither JSON nor YAML"),
        (b"kind: vendor.com/gpu\ncdiVersion: 0.5.0\n", "no devices"),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_path(content: bytes, words: str) -> None:
    file = parse_file(Path("/etc/cdi/vendor.yaml"), content)
    assert file.spec is None
    assert file.fault.startswith("/etc/cdi/vendor.yaml")
    assert words in file.fault
    assert "\n" not in file.fault
