"""Programs that nobody here wrote read our specs: podman and containerd resolve what we write, and nothing else.

And our reading of anybody's specs against podman's. Issue 4, real parts.
"""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from kata_manager.settings import Settings
from nodelib.files import HostRoot
from nodelib.spec_files import SpecFormat, parse_file
from nodelib.spec_folder import SpecReader
from nodelib.vfio import Naming, VfioMode
from tests.data.cdi_samples import BAD
from tests.fakes.kernel import FakeKernel
from tests.fakes.topologies import build
from tests.kata_manager.builders import AllBound, folder_of, foreign_spec, put, resolved, write
from tests.kata_manager.other_programs import (
    Namespace,
    containerd_version,
    ctr_resolves,
    namespace,
    need,
    podman_resolves,
)

UNKNOWN = "nvidia.com/pgpu=4711"
SETTINGS = {
    "as written by default": Settings(),
    "JSON": Settings(form=SpecFormat.JSON),
    "legacy nodes where there are cdevs": Settings(Naming(vfio_mode=VfioMode.LEGACY)),
    "one resource a model": Settings(Naming(gpu_alias="", nvswitch_alias="")),
}


def nodes_of(names: dict[str, list[str]]) -> set[str]:
    return {node for nodes in names.values() for node in nodes}


def space_of(kernel: FakeKernel, nodes: set[str]) -> AbstractContextManager[Namespace]:
    return namespace(kernel.host.root / "etc/cdi", folder_of(kernel), nodes)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_field_11_podman_resolves_every_name_that_we_write_to_the_nodes_that_we_meant(
    settings: Settings, tmp_path: Path
) -> None:
    need("podman", "conmon")
    with build("shared-group", tmp_path, drivers=AllBound(), vfio_cdevs=True) as kernel:
        write(kernel, settings)
        wanted = resolved(kernel)
        with space_of(kernel, nodes_of(wanted)) as space:
            found = podman_resolves(space, [*wanted, UNKNOWN])
    assert f"unresolvable CDI devices {UNKNOWN}" in found.pop(UNKNOWN)
    assert found == wanted


def test_podman_resolves_the_ids_of_a_dgx(tmp_path: Path) -> None:
    need("podman", "conmon")
    with build("dgx-h100", tmp_path, drivers=AllBound()) as kernel:
        write(kernel)
        names = {name: nodes for name, nodes in resolved(kernel).items() if name.rpartition("=")[2].isdigit()}
        with space_of(kernel, nodes_of(names)) as space:
            found = podman_resolves(space, names)
    assert len(names) == 8 + 4
    assert found == names


def test_containerd_resolves_every_name_that_we_write(tmp_path: Path) -> None:
    need("containerd", "ctr")
    if (version := containerd_version()) < (2, 0):
        pytest.skip(f"ctr of containerd {'.'.join(map(str, version))} takes no CDI names; that of 2.0 and later does")
    with build("shared-group", tmp_path, drivers=AllBound(), vfio_cdevs=True) as kernel:
        write(kernel)
        wanted = resolved(kernel)
        with space_of(kernel, nodes_of(wanted)) as space:
            found = ctr_resolves(space, [*wanted, UNKNOWN])
    assert f"unresolvable CDI devices {UNKNOWN}" in found.pop(UNKNOWN)
    assert found == wanted


# --- our reading of anybody's specs

VERSION_RULES = {
    "digit-in-0.4.0.yaml",
    "host-path-in-0.4.0.yaml",
    "mount-type-in-0.3.0.yaml",
    "dotted-class-in-0.5.0.yaml",
}
"""That a field needs a version is checked by later releases of the CDI library than podman 4.3 has."""


def test_podman_refuses_the_bad_samples_that_we_refuse(kernel: FakeKernel) -> None:
    """But for rules that came with newer releases of the CDI library, and for what it does not look at."""
    need("podman", "conmon")
    lenient = VERSION_RULES | {
        "annotations-in-0.5.0.yaml",  # unknown to it at all, or known: by its release
        "unknown-hook.yaml",
    }
    names = {}
    for number, path in enumerate(path for path in BAD if path.suffix == ".yaml" and path.name not in lenient):
        kind = f"v{number}.com/gpu"
        text = path.read_text().replace("vendor.com/gpu", kind)
        put(kernel, path.name, text)
        if kind in text:
            names[f"{kind}=gpu0"] = path.name
    put(kernel, "good.yaml", foreign_spec("good.com/gpu", {"gpu0": "/dev/null"}).replace("0.6.0", "0.5.0"))
    with space_of(kernel, set()) as space:
        found = podman_resolves(space, [*names, "good.com/gpu=gpu0"])
    assert found.pop("good.com/gpu=gpu0") == ["/dev/null"]
    assert len(found) > 15
    accepted = {names[name] for name, answer in found.items() if "unresolvable CDI devices" not in answer}
    assert accepted == set()


@pytest.mark.parametrize("clash", ["one folder", "the static folder", "across folders"])
def test_podman_and_we_agree_on_who_wins(kernel: FakeKernel, clash: str, tmp_path: Path) -> None:
    need("podman", "conmon")
    static = kernel.host.root / "etc/cdi"
    static.mkdir(parents=True)
    one, other = (
        foreign_spec("v.com/gpu", {"a": node}).replace("0.6.0", "0.5.0") for node in ("/dev/null", "/dev/zero")
    )
    put(kernel, "one.yaml", one)
    if clash == "one folder":
        put(kernel, "other.yaml", other)
    else:
        (static / "other.yaml").write_text(other)
    if clash == "the static folder":
        (static / "more.yaml").write_text(other)
    with space_of(kernel, set()) as space:
        answer = podman_resolves(space, ["v.com/gpu=a"])["v.com/gpu=a"]
    ours = SpecReader(HostRoot(kernel.host.root)).resolve().nodes.get("v.com/gpu=a")
    if clash == "across folders":
        assert answer == ["/dev/null"] == list(ours or ())
    else:
        assert "unresolvable CDI devices" in answer
        assert ours is None


def test_a_number_for_a_name_is_to_podman_the_text_that_it_is_to_us(kernel: FakeKernel) -> None:
    need("podman", "conmon")
    text = foreign_spec("v.com/gpu", {"a": "/dev/null"}).replace("0.6.0", "0.5.0").replace("name: a", "name: 65")
    put(kernel, "v.yaml", text)
    with space_of(kernel, set()) as space:
        assert podman_resolves(space, ["v.com/gpu=65"]) == {"v.com/gpu=65": ["/dev/null"]}
    spec = parse_file(Path("v.yaml"), text.encode()).spec
    assert spec is not None
    assert spec.qualified_names() == ("v.com/gpu=65",)
