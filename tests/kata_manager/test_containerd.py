"""Our reading of containerd's configuration against `containerd config dump`, and what it says of itself. Issue 4."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata_manager.containerd import NEW_PLUGIN, OLD_PLUGIN, major_of, read_as
from kata_manager.containerd_version import ask_version
from kata_manager.runtimes import ConfigFile, RuntimeConfig, merged
from kata_manager.toml_files import read_with_imports
from nodelib.errors import InvalidValue
from nodelib.files import HostRoot
from tests.fakes.polling import until
from tests.kata_manager.fit_host import CONTAINERD_2, CONTAINERD_3
from tests.kata_manager.other_programs import containerd_version, need

KATA_A = """\
[plugins."PLUGIN".containerd.runtimes.kata-a]
runtime_type = "io.containerd.kata.v2"
pod_annotations = ["a"]
[plugins."PLUGIN".containerd.runtimes.kata-a.options]
ConfigPath = "/opt/a.toml"
"""
KATA_B = KATA_A.replace("kata-a", "kata-b")
AGAIN_A = """\
[plugins."PLUGIN".containerd.runtimes.kata-a]
pod_annotations = ["b"]
privileged_without_host_devices = true
"""
ON, OFF = '[plugins."PLUGIN"]\nenable_cdi = true\n', '[plugins."PLUGIN"]\nenable_cdi = false\n'
DIRS = '[plugins."PLUGIN"]\ncdi_spec_dirs = ["/opt/cdi"]\n'


def old(text: str) -> str:
    return f"version = 2\n{text}".replace("PLUGIN", OLD_PLUGIN)


def new(text: str) -> str:
    return f"version = 3\n{text}".replace("PLUGIN", NEW_PLUGIN)


# Each with config.toml as the main file; the others lie beside it.
TREES: dict[str, dict[str, str]] = {
    "nothing said": {"config.toml": old("")},
    "no version": {"config.toml": "[plugins.cri]\nenable_cdi = true\n"},
    "2": {"config.toml": CONTAINERD_2},
    "3": {"config.toml": CONTAINERD_3},
    "2, switched off": {"config.toml": old(OFF)},
    "2, other folders": {"config.toml": old(DIRS + KATA_A)},
    "3, switched off": {"config.toml": new(OFF + KATA_A)},
    "2, an import": {"config.toml": old('imports = ["a.toml"]\n' + ON + KATA_A), "a.toml": old(KATA_B)},
    "2, a pattern": {
        "config.toml": old('imports = ["conf.d/*.toml"]\n' + ON + KATA_A),
        "conf.d/20.toml": old(DIRS),
        "conf.d/10.toml": old(OFF + KATA_B),
        "conf.d/readme.txt": "not TOML [",
    },
    "2, one handler in two files": {"config.toml": old('imports = ["a.toml"]\n' + KATA_A), "a.toml": old(AGAIN_A)},
    "2, imports of imports": {
        "config.toml": old('imports = ["sub/a.toml", "b.toml"]\n' + KATA_A),
        "sub/a.toml": old('imports = ["c.toml"]\n' + OFF),
        "sub/c.toml": old(ON + KATA_B),
        "b.toml": old(DIRS),
    },
    "2, importing itself": {"config.toml": old('imports = ["*.toml"]\n' + ON + KATA_A), "z.toml": old(KATA_B)},
    "3, an import": {"config.toml": new('imports = ["a.toml"]\n' + OFF + KATA_A), "a.toml": new(DIRS + AGAIN_A)},
    "3, an import of version 2": {"config.toml": new('imports = ["a.toml"]\n'), "a.toml": old(OFF + KATA_A)},
    "3, both tables": {"config.toml": new('imports = ["a.toml"]\n' + ON + KATA_A), "a.toml": old(OFF + KATA_B)},
    "2, an import of version 3": {"config.toml": old('imports = ["a.toml"]\n' + OFF), "a.toml": new(KATA_A)},
    "2, an import that does not parse": {"config.toml": old('imports = ["a.toml"]\n'), "a.toml": "x = [\n"},
}


def lay(root: Path, files: dict[str, str]) -> HostRoot:
    for name, text in files.items():
        (root / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "etc" / name).write_text(text)
    return HostRoot(root)


def ours(root: Path, files: dict[str, str], major: int) -> RuntimeConfig | None:
    """What we make of them; None where we say that this containerd would not start."""
    try:
        return read_as(major, read_with_imports(lay(root, files), "/etc/config.toml"))
    except InvalidValue:
        return None


def theirs(root: Path, files: dict[str, str]) -> RuntimeConfig | None:
    """What the containerd that is installed makes of them; None where it would not start."""
    lay(root, files)
    done = subprocess.run(
        ["containerd", "--config", str(root / "etc/config.toml"), "config", "dump"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        return None
    document = tomllib.loads(done.stdout)
    # One file without imports, in which everything is said in the format of this containerd: plain keys.
    return read_as(2 if document["version"] > 2 else 1, [ConfigFile(Path("/dump"), document)])


@pytest.mark.parametrize("files", TREES.values(), ids=TREES.keys())
def test_we_read_a_configuration_as_the_installed_containerd_does(files: dict[str, str], tmp_path: Path) -> None:
    if shutil.which("containerd") is None:
        pytest.skip("containerd is not installed (.ci/run installs it)")
    version = containerd_version()
    if version < (1, 7) and (any("*" in text or "version = 3" in text for text in files.values())):
        pytest.skip("containerd 1.6 takes a pattern's files otherwise, and version 3 for 2; it knows no CDI")
    found, wanted = ours(tmp_path / "ours", files, version[0]), theirs(tmp_path / "theirs", files)
    assert (found is None) is (wanted is None)
    if found is None or wanted is None:
        return
    handlers = {handler for handler in wanted.handlers if handler.is_kata}
    assert {handler for handler in found.handlers if handler.is_kata} == handlers
    if version >= (1, 7):  # older ones know no CDI
        assert (found.reads_cdi, found.spec_dirs) == (wanted.reads_cdi, wanted.spec_dirs)


# --- without the program


def test_containerd_1_lets_a_later_file_replace_a_plugins_whole_table_and_2_merges_them(tmp_path: Path) -> None:
    files = TREES["2, an import"]
    one, two = ours(tmp_path, files, 1), ours(tmp_path, files, 2)
    assert one is not None
    assert two is not None
    assert (one.reads_cdi, [handler.name for handler in one.handlers]) == (False, ["kata-b"])
    assert (two.reads_cdi, [handler.name for handler in two.handlers]) == (True, ["kata-a", "kata-b"])


def test_version_3_is_not_for_containerd_1(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"/etc/config.toml is of version 3, which needs containerd 2"):
        read_as(1, read_with_imports(lay(tmp_path, TREES["3"]), "/etc/config.toml"))


def test_what_is_not_there_is_no_configuration(tmp_path: Path) -> None:
    assert read_with_imports(HostRoot(tmp_path), "/etc/config.toml") == ()
    assert read_as(2, ()) == RuntimeConfig("containerd", True, ("/etc/cdi", "/var/run/cdi"), ())


def test_tables_are_merged_and_everything_else_replaced() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 1, "e": {"f": 1}}
    assert merged(base, {"a": {"c": [2]}, "d": {"x": 1}, "e": 2}) == {"a": {"b": 1, "c": [2]}, "d": {"x": 1}, "e": 2}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 1, "e": {"f": 1}}


@pytest.mark.parametrize(
    ("text", "major"), [("1.7.24~ds1", 1), ("v2.1.4", 2), ("2.0.0-rc.1", 2), ("", None), ("x", None)]
)
def test_the_major_number_of_a_version(text: str, major: int | None) -> None:
    assert major_of(text) == major


# --- its version


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """That of a containerd of the test's own."""
    need("containerd")
    home = tmp_path / "c"
    home.mkdir()
    (home / "config.toml").write_text(
        f'version = 2\nroot = "{home}/root"\nstate = "{home}/state"\n[grpc]\naddress = "{home}/s"\n'
    )
    with subprocess.Popen(
        ["containerd", "--config", str(home / "config.toml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            yield home / "s"
        finally:
            daemon.terminate()


def test_a_running_containerd_says_its_version(socket: Path) -> None:
    until(lambda: bool(ask_version(socket)))
    assert major_of(ask_version(socket)) == containerd_version()[0]


def test_nobody_who_answers_is_no_version(tmp_path: Path) -> None:
    assert ask_version(tmp_path / "s") == ""
    (tmp_path / "s").write_text("")
    assert ask_version(tmp_path / "s") == ""
