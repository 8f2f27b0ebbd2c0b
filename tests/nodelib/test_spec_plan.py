"""Which CDI specs of ours a folder should hold. DESIGN section 4, kata-manager; field problem 37."""

import json
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodelib.cdi import CdiDevice, CdiSpec
from nodelib.files import HostRoot
from nodelib.spec_files import SpecFile, SpecFormat, parse_file, spec_file_name, spec_text
from nodelib.spec_folder import SpecReader, apply
from nodelib.spec_plan import RemoveSpec, SpecPlan, WriteSpec, plan_removal, plan_specs
from tests.nodelib.samples import PROPERTY
from tests.nodelib.test_spec_files import foreign

GPUS = CdiSpec("nvidia.com/pgpu", (CdiDevice("65", ("/dev/vfio/65",)), CdiDevice("66", ("/dev/vfio/66",))))
SWITCHES = CdiSpec("nvidia.com/nvswitch", (CdiDevice("7", ("/dev/vfio/7",)),))


def plan(folder: Path, *specs: CdiSpec) -> SpecPlan:
    return plan_specs(folder, specs, SpecReader(HostRoot()).read(folder))


def keep(folder: Path, *specs: CdiSpec) -> SpecPlan:
    made = plan(folder, *specs)
    for step in made.steps:
        apply(step)
    return made


def test_a_missing_spec_is_written_readable_by_all_and_its_folder_made(tmp_path: Path) -> None:
    folder = tmp_path / "run/cdi"
    (step,) = keep(folder, GPUS).steps
    path = folder / "nvidia.com-pgpu.yaml"
    assert str(step) == f"write {path} (2 names)"
    assert path.read_bytes() == spec_text(GPUS)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_second_plan_is_empty(tmp_path: Path) -> None:
    keep(tmp_path, GPUS, SWITCHES)
    assert plan(tmp_path, GPUS, SWITCHES) == SpecPlan(())


def test_a_spec_that_changed_is_written_anew(tmp_path: Path) -> None:
    keep(tmp_path, GPUS)
    changed = CdiSpec(GPUS.kind, GPUS.devices[:1])
    assert keep(tmp_path, changed).steps == (WriteSpec(tmp_path / "nvidia.com-pgpu.yaml", spec_text(changed), 1),)


def test_our_specs_that_nobody_wants_any_more_are_removed(tmp_path: Path) -> None:
    """Field problem 37: the old name is left after an alias change."""
    keep(tmp_path, GPUS, SWITCHES)
    (step,) = keep(tmp_path, GPUS).steps
    assert step == RemoveSpec(tmp_path / "nvidia.com-nvswitch.yaml")
    assert "none of its devices is wanted any more" in str(step)
    assert [path.name for path in tmp_path.iterdir()] == ["nvidia.com-pgpu.yaml"]


def test_no_wanted_spec_at_all_removes_ours_and_nothing_else(tmp_path: Path) -> None:
    keep(tmp_path, GPUS)
    (tmp_path / "vendor.yaml").write_bytes(foreign())
    keep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vendor.yaml"]


def test_a_broken_file_under_our_mark_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "nvidia.com-pgpu.yaml"
    path.write_bytes(spec_text(GPUS)[:-30])
    keep(tmp_path, GPUS)
    assert path.read_bytes() == spec_text(GPUS)


def test_what_another_tool_of_the_same_purpose_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nvidia.com-pgpu.yaml"
    path.write_bytes(foreign(GPUS.kind, "0", "/dev/vfio/65"))
    keep(tmp_path, GPUS)
    assert path.read_bytes() == spec_text(GPUS)


@pytest.mark.parametrize("content", [foreign(), foreign(GPUS.kind, "65", "/dev/nvidia0"), b"broken: ["])
def test_a_foreign_file_in_our_place_is_reported_and_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "nvidia.com-pgpu.yaml"
    path.write_bytes(content)
    made = keep(tmp_path, GPUS)
    assert made.steps == ()
    assert [problem.code for problem in made.problems] == ["cdi-foreign-file"]
    assert str(path) in made.problems[0].text
    assert path.read_bytes() == content


def test_field_37_a_file_of_ours_that_not_everybody_may_read_is_written_again(tmp_path: Path) -> None:
    keep(tmp_path, GPUS)
    path = tmp_path / "nvidia.com-pgpu.yaml"
    path.chmod(0o600)
    (step,) = keep(tmp_path, GPUS).steps
    assert str(step) == f"write {path} (2 names): its mode was 0600"
    assert path.stat().st_mode & 0o777 == 0o644
    assert plan(tmp_path, GPUS).steps == ()


def test_a_link_in_place_of_our_file_is_replaced_even_if_it_leads_to_the_right_bytes(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(spec_text(GPUS))
    path = tmp_path / "nvidia.com-pgpu.yaml"
    path.symlink_to(target)
    (step,) = keep(tmp_path, GPUS).steps
    assert str(step) == f"write {path} (2 names): in place of a link"
    assert not path.is_symlink()
    assert target.read_bytes() == spec_text(GPUS)


def test_what_another_tool_left_is_taken_over_with_a_word_wanted_or_not(tmp_path: Path) -> None:
    path = tmp_path / "nvidia.com-pgpu.yaml"
    path.write_bytes(foreign(GPUS.kind, "0", "/dev/vfio/65"))
    (step,) = plan(tmp_path, GPUS).steps
    assert str(step) == f"write {path} (2 names): in place of what another tool left"
    files = SpecReader(HostRoot(tmp_path)).read(tmp_path)
    assert plan_specs(tmp_path, (), files).steps == (), "a kind that is not ours"
    (step,) = plan_specs(tmp_path, (), files, kinds=[GPUS.kind]).steps
    assert str(step) == f"remove {path}: another tool left it, and no device needs it"


def test_a_copy_that_somebody_put_aside_is_not_ours(tmp_path: Path) -> None:
    for name in ("nvidia.com-pgpu.old.yaml", "copy.yaml", "nvidia.com-copy.yaml"):
        (tmp_path / name).write_bytes(spec_text(GPUS))
    made = keep(tmp_path)
    assert made == SpecPlan(())
    problems = plan(tmp_path, GPUS).problems
    assert [problem.code for problem in problems] == ["cdi-conflict"] * 3


# --- JSON


def test_a_change_of_format_removes_the_other_file_first_as_both_claim_the_same_names(tmp_path: Path) -> None:
    keep(tmp_path, GPUS)
    for form, gone in ((SpecFormat.JSON, "yaml"), (SpecFormat.YAML, "json")):
        made = plan_specs(tmp_path, [GPUS], SpecReader(HostRoot(tmp_path)).read(tmp_path), form=form)
        assert [type(step).__name__ for step in made.steps] == ["RemoveSpec", "WriteSpec"]
        assert made.problems == ()
        for step in made.steps:
            apply(step)
        assert [path.name for path in tmp_path.iterdir()] == [f"nvidia.com-pgpu.{form.value}"]
        assert not (tmp_path / f"nvidia.com-pgpu.{gone}").exists()


def test_a_stale_json_file_of_ours_is_removed_and_one_that_we_did_not_write_is_not(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "nvidia.com-pgpu.json", tmp_path / "nvidia.com-nvswitch.json"
    ours.write_bytes(spec_text(GPUS, SpecFormat.JSON))
    theirs.write_text(json.dumps(SWITCHES.as_document()))
    assert [step.path for step in keep(tmp_path).steps] == [ours]
    assert theirs.exists()


def test_a_foreign_file_that_claims_a_name_of_ours_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rival.json"
    path.write_bytes(foreign(GPUS.kind, "66", "/dev/vfio/66"))
    made = keep(tmp_path, GPUS)
    assert [problem.code for problem in made.problems] == ["cdi-conflict"]
    assert f"{path} claims nvidia.com/pgpu=66 too" in made.problems[0].text
    assert path.exists()


def test_another_kind_or_name_is_no_rival(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(foreign())
    (tmp_path / "b.yaml").write_bytes(foreign(GPUS.kind, "67", "/dev/vfio/67"))
    (tmp_path / "c.yaml").write_bytes(b"broken: [")
    assert keep(tmp_path, GPUS).problems == ()


def test_an_uninstall_removes_all_that_bears_our_mark(tmp_path: Path) -> None:
    keep(tmp_path, GPUS, SWITCHES)
    (tmp_path / "nvidia.com-gpu.yaml").write_bytes(foreign(GPUS.kind, "65", "/dev/vfio/65"))
    steps = plan_removal(SpecReader(HostRoot(tmp_path)).read(tmp_path))
    assert [step.path.name for step in steps] == ["nvidia.com-nvswitch.yaml", "nvidia.com-pgpu.yaml"]


SPECS = st.lists(
    st.builds(
        CdiSpec,
        st.sampled_from(["nvidia.com/pgpu", "nvidia.com/nvswitch", "nvidia.com/a"]),
        st.lists(
            st.builds(CdiDevice, st.sampled_from(["1", "2", "vfio0"]), st.just(("/dev/vfio/1",))),
            min_size=1,
            unique_by=lambda device: device.name,
        ).map(tuple),
    ),
    unique_by=lambda spec: spec.kind,
)


def carried_out(files: dict[PurePath, bytes], made: SpecPlan) -> dict[PurePath, bytes]:
    """The folder after *made*, without touching a disk."""
    after = dict(files)
    for step in made.steps:
        if isinstance(step, WriteSpec):
            after[step.path] = step.content
        else:
            del after[step.path]
    return after


def parsed(files: dict[PurePath, bytes]) -> list[SpecFile]:
    return [parse_file(path, content) for path, content in sorted(files.items())]


@settings(PROPERTY, max_examples=30)  # YAML takes its time
@given(st.lists(SPECS, min_size=1, max_size=4), st.sets(st.sampled_from(["vendor", "rival", "in the way"])))
def test_from_whatever_was_there_one_plan_leads_to_what_is_wanted(
    rounds: list[list[CdiSpec]], others: set[str]
) -> None:
    folder = Path("/run/cdi")
    contents: dict[str, tuple[PurePath, bytes]] = {
        "vendor": (folder / "vendor.yaml", foreign()),
        "rival": (folder / "rival.yaml", foreign("nvidia.com/pgpu", "1", "/dev/nvidia1")),
        "in the way": (folder / "nvidia.com-a.yaml", foreign()),
    }
    not_ours = dict(contents[other] for other in others)
    files = dict(not_ours)
    for specs in rounds:
        files = carried_out(files, plan_specs(folder, specs, parsed(files)))
        wanted: dict[PurePath, bytes] = {folder / spec_file_name(spec.kind): spec_text(spec) for spec in specs}
        expected: dict[PurePath, bytes] = {**wanted, **not_ours}
        assert files == expected
        assert plan_specs(folder, specs, parsed(files)).steps == ()
