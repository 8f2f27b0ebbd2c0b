"""What belongs to somebody else in the CDI folder: reported where it is in the way, and never touched."""

from pathlib import Path

import pytest

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import PGPU, TWO_GPUS, files, folder_of, foreign_spec, identity, put, write


def test_a_foreign_file_where_ours_must_go_is_reported_and_not_overwritten(kernel: FakeKernel) -> None:
    content = foreign_spec("nvidia.com/pgpu", {"all": "/dev/nvidia0"})
    path = put(kernel, PGPU, content)
    before = identity(path)
    planned = SpecKeeper(kernel.node(), Settings()).write()
    assert planned.steps == ()
    assert [str(problem) for problem in planned.problems] == [
        f"{path} is somebody else's file where ours must go; move it away if nobody needs it; it is never overwritten"
    ]
    assert identity(path) == before
    assert files(kernel) == {PGPU: content}


@pytest.mark.parametrize("content", ["", "{", "kind: nvidia.com/pgpu\n", "\x00\x01", "- a list\n"])
def test_a_broken_foreign_file_where_ours_must_go_is_not_overwritten_either(kernel: FakeKernel, content: str) -> None:
    path = put(kernel, PGPU, content)
    planned = SpecKeeper(kernel.node(), Settings()).write()
    assert [problem.code for problem in planned.problems] == ["cdi-foreign-file"]
    assert path.read_text() == content


def test_what_another_tool_of_the_same_purpose_left_is_taken_over(kernel: FakeKernel) -> None:
    # The same file name, our kind, and VFIO nodes alone: the spec of a tool that we replace
    put(kernel, PGPU, foreign_spec("nvidia.com/pgpu", {"0": "/dev/vfio/65", "1": "/dev/vfio/93"}))
    write(kernel)
    assert files(kernel) == {PGPU: TWO_GPUS}


def test_our_own_file_is_mended_when_it_was_edited_or_cut(kernel: FakeKernel) -> None:
    for content in (TWO_GPUS[:200], TWO_GPUS.replace("/dev/vfio/93", "/dev/vfio/65")):
        put(kernel, PGPU, content)
        assert len(write(kernel)) == 1
        assert files(kernel) == {PGPU: TWO_GPUS}


def test_a_foreign_file_that_claims_a_name_of_ours_is_reported_by_file_and_name(kernel: FakeKernel) -> None:
    # facts/kubelet-cdi-kata-contract.md: in one folder neither of the two would resolve
    rival = put(kernel, "vendor.json", foreign_spec("nvidia.com/pgpu", {"93": "/dev/vfio/93", "spare": "/dev/null"}))
    planned = SpecKeeper(kernel.node(), Settings()).write()
    assert [str(problem) for problem in planned.problems] == [
        f"{rival} claims nvidia.com/pgpu=93 too, so neither resolves; remove that file or give us another alias"
    ]
    assert files(kernel)[PGPU] == TWO_GPUS
    assert rival.exists()


def test_other_vendors_specs_and_unmarked_leftovers_stay(kernel: FakeKernel) -> None:
    others = {
        "nvidia.yaml": foreign_spec("nvidia.com/gpu", {"0": "/dev/nvidia0"}),
        "nvidia.com-old.yaml": foreign_spec("nvidia.com/old", {"0": "/dev/vfio/1"}),
        "broken.yaml": "{",
        "notes.txt": "# managed by cgpu-agents, says this text",
    }
    for name, content in others.items():
        put(kernel, name, content)
    write(kernel)
    assert files(kernel) == others | {PGPU: TWO_GPUS}


# --- links


def test_a_link_to_somebody_elses_file_is_neither_followed_nor_replaced(kernel: FakeKernel, tmp_path: Path) -> None:
    target = tmp_path / "precious.yaml"
    target.write_text(foreign_spec("vendor.com/thing", {"0": "/dev/null"}))
    before = target.read_text()
    folder_of(kernel).mkdir(parents=True)
    link = folder_of(kernel) / PGPU
    link.symlink_to(target)
    planned = SpecKeeper(kernel.node(), Settings()).write()
    assert [problem.code for problem in planned.problems] == ["cdi-foreign-file"]
    assert link.readlink() == target
    assert target.read_text() == before


def test_a_link_to_an_old_spec_of_ours_becomes_a_file_and_its_target_stays(kernel: FakeKernel, tmp_path: Path) -> None:
    target = tmp_path / "old.yaml"
    target.write_text("# managed by cgpu-agents: an old one\n")
    folder_of(kernel).mkdir(parents=True)
    link = folder_of(kernel) / PGPU
    link.symlink_to("../../../old.yaml")
    write(kernel)
    assert not link.is_symlink()
    assert link.read_text() == TWO_GPUS
    assert target.read_text() == "# managed by cgpu-agents: an old one\n"


def test_a_link_to_nowhere_is_reported(kernel: FakeKernel) -> None:
    folder_of(kernel).mkdir(parents=True)
    link = folder_of(kernel) / PGPU
    link.symlink_to("/nowhere/at/all.yaml")
    planned = SpecKeeper(kernel.node(), Settings()).write()
    assert [problem.code for problem in planned.problems] == ["cdi-foreign-file"]
    assert link.is_symlink()
