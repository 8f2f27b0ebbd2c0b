"""CDI spec files as values. facts/kubelet-cdi-kata-contract.md, section CDI."""

from pathlib import Path

import pytest
import yaml

from nodelib.cdi import CdiDevice, CdiSpec
from nodelib.spec_files import MARKER, parse_file, spec_file_name, spec_text

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
    file = parse_file(Path("x.yaml"), spec_text(SPEC))
    assert file.spec == SPEC
    assert file.is_marked


def test_a_name_of_digits_stays_a_text_in_the_file() -> None:
    """YAML would read a bare 65 as a number, and runtimes refuse the whole file."""
    spec = CdiSpec("nvidia.com/pgpu", tuple(CdiDevice(n, ("/dev/vfio/65",)) for n in ("65", "0x1", "1e3", "010", "no")))
    assert parse_file(Path("x.yaml"), spec_text(spec)).spec == spec


# --- whose a file is


@pytest.mark.parametrize(
    ("content", "is_ours"),
    [
        (spec_text(SPEC), True),
        (MARKER.encode() + b"\nbroken: [", True),  # a mark is enough
        (foreign("nvidia.com/pgpu", "65", "/dev/vfio/65"), True),  # left by another tool of the same purpose
        (foreign("nvidia.com/pgpu", "65", "/dev/nvidia0"), False),
        (foreign("nvidia.com/gpu", "65", "/dev/vfio/65"), False),
        (foreign("nvidia.com/pgpu").replace(b"deviceNodes:\n    - path: /dev/a", b"env: [A=b]"), False),
        (b"broken: [", False),
    ],
)
def test_a_file_is_ours_by_its_mark_or_as_a_spec_of_vfio_nodes_of_our_kind(content: bytes, is_ours: bool) -> None:
    assert parse_file(Path("nvidia.com-pgpu.yaml"), content).is_ours_for("nvidia.com/pgpu") is is_ours


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
