"""CDI spec files and what they resolve. facts/kubelet-cdi-kata-contract.md, section CDI."""

from pathlib import Path

import pytest
import yaml

from nodelib.cdi import CdiDevice, CdiSpec
from nodelib.errors import InvalidValue
from nodelib.files import HostRoot
from nodelib.spec_files import MARKER, SpecFile, parse_file, spec_file_name, spec_text
from nodelib.spec_folder import SpecReader

SPEC = CdiSpec("nvidia.com/pgpu", (CdiDevice("65", ("/dev/vfio/65",)), CdiDevice("0000:3b:00.0", ("/dev/vfio/65",))))
FOREIGN = b"""{"cdiVersion": "0.3.0", "kind": "vendor.com/gpu",
 "devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/a"}]}}]}"""


def foreign(kind: str = "vendor.com/gpu", name: str = "a", node: str = "/dev/a") -> bytes:
    device = {"name": name, "containerEdits": {"deviceNodes": [{"path": node}]}}
    return yaml.safe_dump({"cdiVersion": "0.5.0", "kind": kind, "devices": [device]}).encode()


@pytest.fixture
def host(tmp_path: Path) -> HostRoot:
    for folder in ("etc/cdi", "run/cdi", "var"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/run").symlink_to("/run")
    return HostRoot(tmp_path)


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


def test_only_json_and_yaml_files_directly_in_the_folder_are_read(tmp_path: Path) -> None:
    for name in ("b.json", "a.yaml", "c.yml", ".a.yaml.x.tmp", "README"):
        (tmp_path / name).write_bytes(FOREIGN)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "folder.yaml/inside.yaml").write_bytes(FOREIGN)
    assert [file.path.name for file in SpecReader().read(tmp_path)] == ["a.yaml", "b.json"]


def test_a_folder_that_is_not_there_holds_nothing_and_one_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    assert SpecReader().read(tmp_path / "cdi") == ()
    (tmp_path / "cdi").touch()
    with pytest.raises(InvalidValue, match=r"cannot list the CDI folder .*/cdi \(Not a directory\)"):
        SpecReader().read(tmp_path / "cdi")


def test_a_link_to_nowhere_is_a_broken_file_as_it_is_to_runtimes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nothing")
    assert SpecReader().read(tmp_path) == (SpecFile(tmp_path / "a.yaml", b"", None, "a link to nowhere"),)


def test_a_file_that_cannot_be_read_is_broken_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    (tmp_path / "b.yaml").write_bytes(FOREIGN)
    broken, well = SpecReader().read(tmp_path)
    assert broken.fault == "cannot be read (Too many levels of symbolic links)"
    assert well.spec is not None


def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(foreign(name="one"))
    reader = SpecReader()
    (first,) = reader.read(tmp_path)
    (again,) = reader.read(tmp_path)
    assert again is first
    path.write_bytes(foreign(name="other"))
    (changed,) = reader.read(tmp_path)
    assert changed.spec is not None
    assert changed.spec.devices[0].name == "other"


# --- resolving


def test_names_resolve_to_their_nodes_in_both_folders(host: HostRoot) -> None:
    (host.root / "etc/cdi/vendor.json").write_bytes(FOREIGN)
    (host.root / "run/cdi/nvidia.com-pgpu.yaml").write_bytes(spec_text(SPEC))
    resolution = SpecReader().resolve(host)
    assert resolution.nodes == {
        "vendor.com/gpu=a": ("/dev/a",),
        "nvidia.com/pgpu=65": ("/dev/vfio/65",),
        "nvidia.com/pgpu=0000:3b:00.0": ("/dev/vfio/65",),
    }
    assert resolution.problems == ()


def test_no_folder_resolves_nothing_without_a_problem(tmp_path: Path) -> None:
    resolution = SpecReader().resolve(HostRoot(tmp_path))
    assert (dict(resolution.nodes), resolution.problems) == ({}, ())


def test_the_later_folder_wins(host: HostRoot) -> None:
    (host.root / "etc/cdi/a.yaml").write_bytes(foreign(node="/dev/static"))
    (host.root / "run/cdi/a.yaml").write_bytes(foreign(node="/dev/dynamic"))
    resolution = SpecReader().resolve(host)
    assert resolution.nodes == {"vendor.com/gpu=a": ("/dev/dynamic",)}
    assert resolution.problems == ()


def test_a_name_claimed_twice_in_one_folder_does_not_resolve_and_both_files_are_named(host: HostRoot) -> None:
    (host.root / "etc/cdi/0.yaml").write_bytes(foreign(node="/dev/static"))
    for name in ("a.yaml", "b.yaml"):
        (host.root / "run/cdi" / name).write_bytes(foreign(node=f"/dev/{name}"))
    resolution = SpecReader().resolve(host)
    assert resolution.nodes == {}
    assert [problem.code for problem in resolution.problems] == ["cdi-conflict", "cdi-conflict"]
    assert "run/cdi/a.yaml claims vendor.com/gpu=a" in resolution.problems[0].text
    assert "run/cdi/b.yaml claims vendor.com/gpu=a" in resolution.problems[1].text


def test_a_broken_file_is_a_problem_and_the_others_resolve(host: HostRoot) -> None:
    (host.root / "etc/cdi/broken.yaml").write_bytes(b"a: b\n\tc: d\n")
    (host.root / "etc/cdi/nowhere.yaml").symlink_to("nothing")
    (host.root / "run/cdi/a.yaml").write_bytes(foreign())
    resolution = SpecReader().resolve(host)
    assert set(resolution.nodes) == {"vendor.com/gpu=a"}
    assert [problem.code for problem in resolution.problems] == ["cdi-broken", "cdi-broken"]
    assert "etc/cdi/broken.yaml, line 2: neither" in resolution.problems[0].text
    assert "etc/cdi/nowhere.yaml: a link to nowhere" in resolution.problems[1].text
