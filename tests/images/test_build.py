"""`make images`: which command it comes to, and what it says where it cannot work. No engine is run here."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from images import build
from images.agents import NAMES, ROOT, agent
from images.build import Order, answering, build_command, main, problem, source_date

ORDER = Order("buildah", "localhost/base", "registry.example/team", "", "", 1_000_000_000, "abc")
VFIO = agent("vfio-manager")


def test_what_is_built_is_said_by_arguments_alone() -> None:
    command = " ".join(build_command(ORDER, VFIO))
    assert command == (
        "buildah build --timestamp 1000000000 --format oci --build-arg BASE=localhost/base"
        f" --build-arg SOURCE_DATE_EPOCH=1000000000 --build-arg VERSION={VFIO.version} --build-arg REVISION=abc"
        f" --file agents/vfio_manager/Dockerfile --tag registry.example/team/vfio-manager:{VFIO.version} ."
    )


def test_docker_knows_neither_timestamp_nor_format() -> None:
    command = build_command(replace(ORDER, engine="docker"), VFIO)
    assert command[:3] == ("docker", "build", "--build-arg")


def test_registry_tag_and_platform_are_the_callers() -> None:
    order = replace(ORDER, registry="registry.example/other/", tag="edge", platform="linux/arm64")
    command = build_command(order, VFIO)
    assert command[command.index("--tag") + 1] == "registry.example/other/vfio-manager:edge"
    assert command[command.index("--platform") + 1] == "linux/arm64"


def test_several_platforms_become_one_manifest_and_docker_says_that_it_cannot() -> None:
    order = replace(ORDER, platform="linux/amd64,linux/arm64")
    assert "--manifest" in build_command(order, VFIO)
    assert "--tag" not in build_command(order, VFIO)
    assert problem(order) == ""
    assert "ENGINE=buildah" in problem(replace(order, engine="docker"))


def test_an_engine_counts_only_if_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, status in (("docker", 1), ("podman", 0)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nexit {status}\n")  # a docker whose daemon is not there
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert answering() == "podman"
    assert answering(["docker", "buildah"]) == ""


def test_without_an_engine_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "install buildah or podman" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["gpu-manager"], ["--engine", "rkt"], ["--platform", "a,b", "--engine=docker"]])
def test_wrong_usage_is_2_and_builds_nothing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error: " in capsys.readouterr().err


def test_a_build_that_fails_is_1_and_names_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "buildah"
    program.write_text("#!/bin/sh\n[ $1 = info ] || { echo no such base; exit 125; }\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["--engine", "buildah", "kata-manager"]) == 1
    out, err = capfd.readouterr()
    assert out == "no such base\n"
    assert err == f"error: buildah could not build {build.REGISTRY}/kata-manager:{VFIO.version}; its reason is above\n"


def test_make_hands_its_variables_on() -> None:
    variables = ["ENGINE=podman", "BASE=b", "PLATFORM=p", "REGISTRY=r", "TAG=t", "AGENTS=cc-manager"]
    told = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", f"PYTHON={sys.executable}", "images", *variables],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert told == [
        *(sys.executable, "-m", "images.build"),
        *("--engine=podman", "--base=b", "--platform=p", "--registry=r", "--tag=t", "cc-manager"),
    ]


def test_the_dates_are_the_commits_unless_source_date_epoch_is_set() -> None:
    assert source_date({"SOURCE_DATE_EPOCH": "12"}) == 12
    committed = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, check=True).stdout
    assert source_date({}) == int(committed)


@pytest.mark.parametrize(
    ("engine", "said", "size"),
    [("buildah", "178 MB", 178_000_000), ("buildah", "1.02 GB", 1_020_000_000), ("podman", "178154330", 178_154_330)],
)
def test_sizes_are_what_the_engine_says(
    engine: str, said: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / engine
    program.write_text(f"#!/bin/sh\necho {said}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert build.size(engine, "vfio-manager:1") == size


def test_the_manifests_look_for_the_images_where_make_images_puts_them() -> None:
    told = yaml.safe_load((ROOT / "deploy/base/kustomization.yaml").read_text())["images"]
    order = replace(ORDER, registry=build.REGISTRY)
    assert {f"{entry['newName']}:{entry['newTag']}" for entry in told} == {order.name(agent(name)) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_dockerfile_says_what_pyproject_says(name: str) -> None:
    one = agent(name)
    text = (one.folder / "Dockerfile").read_text()
    assert f"ARG BASE={build.BASE}\n" in text
    assert f"ARG VERSION={one.version}\n" in text, "a build by hand would be labelled with another version"
    assert f'org.opencontainers.image.title="{one.image}"' in text
    assert f'org.opencontainers.image.description="{one.description}"' in text
    assert f'ENTRYPOINT ["{one.image}"]\nCMD ["run"]\n' in text
    assert re.search(r"^# root: .+\nUSER 0:0$", text, re.MULTILINE), "it does not say why it runs as root"


def test_the_dockerfiles_differ_in_nothing_but_what_their_agents_need() -> None:
    """One text four times: what is mended in one is mended in all."""
    first_stages = set()
    for name in NAMES:
        text = (agent(name).folder / "Dockerfile").read_text()
        first_stages.add(text.partition("\nFROM ${BASE}\n")[0].replace(name, "X").replace(agent(name).image, "Y"))
    assert len(first_stages) == 1


def test_the_context_holds_sources_alone() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    assert "*" in rules
    assert [rule for rule in rules if rule.startswith("!")] == ["!agents", "!images/build.lock"]
