"""Whatever /sys holds, `status`, `plan` and `doctor` answer: 2,000 nodes of garbage, and nothing is raised."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodelib.node import Node
from nodelib.output import render
from nodelib.sysfs import Sysfs
from nodelib.uevents import kernel_uevents
from tests.nodelib.samples import Tree
from vfio_manager import report
from vfio_manager.doctor import examine
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings

WORDS = [
    b"",
    b"0x10de\n",
    b"0x2330\n",
    b"0x030200\n",
    b"0x060400\n",
    b"1\n",
    b"-1\n",
    b"vfio-pci\n",
    b"(null)\n",
    b"on\n",
]
CONTENT = st.sampled_from(WORDS) | st.binary(max_size=24)
ATTRIBUTES = (
    "vendor",
    "device",
    "class",
    "enable",
    "numa_node",
    "driver_override",
    "sriov_numvfs",
    "d3cold_allowed",
    "power/control",
    "power_state",
    "modalias",
)
LINKS = ("driver", "iommu_group", "physfn")
TARGETS = (
    "../../drivers/nvidia",
    "../../drivers/vfio-pci",
    "../../../kernel/iommu_groups/65",
    "0000:3b:00.0",
    "x",
    "/",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """One tree for all cases: each case writes its garbage over the one before."""
    memory = Path("/dev/shm")
    root = memory / f"fuzz-{os.getpid()}" if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("fuzz")
    root.mkdir(exist_ok=True)
    try:
        yield Tree(root)
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def node(tree: Tree) -> Iterator[Node]:
    for name in ("nvidia", "vfio-pci"):
        tree.add_driver(name)
    sysfs = Sysfs(tree.host)
    yield Node(tree.host, sysfs, kernel_uevents)
    sysfs.close()


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    contents=st.dictionaries(st.sampled_from(ATTRIBUTES), CONTENT | st.none()),
    links=st.dictionaries(st.sampled_from(LINKS), st.sampled_from(TARGETS)),
    members=st.sets(st.sampled_from(["0000:3b:00.0", "0000:3b:00.1", "garbage", "0000:ff:1f.7"])),
    name=st.sampled_from(["0000:3b:00.0", "10000:3b:00.0", "not-an-address"]),
)
def test_whatever_sysfs_holds_the_verbs_that_look_answer(
    tree: Tree,
    node: Node,
    contents: dict[str, bytes | None],
    links: dict[str, str],
    members: set[str],
    name: str,
) -> None:
    put(tree, name, contents, links, members)
    binder = Binder(node, Settings(ready_file=""))
    inventory = binder.scan()
    planned, choice = binder.plan(inventory)
    for shown in (report.status(inventory, planned, choice, {}), report.plan(planned)):
        for output in ("table", "json"):
            render(shown, output)
    examine(node, inventory, planned, choice)
    for refusal in planned.refusals:
        assert refusal.problem.text


def put(tree: Tree, name: str, contents: dict[str, bytes | None], links: dict[str, str], members: set[str]) -> None:
    """One device folder called *name* with these attributes and links, and group 65 with these members."""
    devices = tree.pci / "devices"
    for old in devices.iterdir():
        shutil.rmtree(old)
    folder = devices / name
    (folder / "power").mkdir(parents=True)
    for attribute, content in {
        "vendor": b"0x10de\n",
        "device": b"0x2330\n",
        "class": b"0x030200\n",
        **contents,
    }.items():
        if content is not None:
            (folder / attribute).write_bytes(content)
    for link, target in links.items():
        (folder / link).symlink_to(target)
    group = tree.sys / "kernel/iommu_groups/65/devices"
    group.mkdir(parents=True, exist_ok=True)
    for member in group.iterdir():
        member.unlink()
    for member_name in members:
        (group / member_name).symlink_to(devices / member_name)
