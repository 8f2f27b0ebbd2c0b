"""kubectl and our own renderer make the same of every kustomization."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import BASE, COMPONENTS, DEPLOY, OVERLAYS, overlay_text
from tests.deploy.render import Object, Unsupported, identity, render

OLDEST = (1, 27)
"""The first kubectl whose kustomize knows `labels` with `includeTemplates` (kustomize 5)."""


@pytest.fixture(scope="module")
def kubectl() -> str:
    """The program; where there is none that test is skipped, but never in CI."""
    program = shutil.which("kubectl")
    said = (
        subprocess.run([program, "version", "--client"], capture_output=True, text=True, check=True).stdout
        if program
        else ""
    )
    version = re.search(r"v(\d+)\.(\d+)", said)
    if program is None or version is None or tuple(map(int, version.groups())) < OLDEST:
        reason = f"kubectl 1.27 or later is needed, and this machine has {said.strip() or 'none'}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def kustomize(kubectl: str, folder: Path) -> list[Object]:
    result = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower(), result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def by_identity(objects: list[Object]) -> dict[tuple[str, str, str], Object]:
    return {identity(item): item for item in objects}


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_kubectl_renders_what_the_tests_look_at(kubectl: str, folder: Path) -> None:
    assert by_identity(kustomize(kubectl, folder)) == by_identity(render(folder))


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda folder: folder.name)
def test_every_component_goes_upon_base(kubectl: str, component: Path, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text(overlay_text(component.name, tmp_path))
    assert by_identity(kustomize(kubectl, tmp_path)) == by_identity(render(tmp_path))


def test_all_components_go_together(kubectl: str, tmp_path: Path) -> None:
    """In any order, but for the one that says that it comes last: none undoes what another did."""
    last = DEPLOY / "components/gpu-operator"
    others = [path for path in COMPONENTS if path != last]
    rendered = []
    for order in (others, list(reversed(others))):
        base, *components = (os.path.relpath(path, tmp_path) for path in (BASE, *order, last))
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "components": components}))
        rendered.append(by_identity(kustomize(kubectl, tmp_path)))
        assert rendered[-1] == by_identity(render(tmp_path))
    assert sorted(rendered[0]) == sorted(rendered[1])


def test_every_folder_with_manifests_is_rendered_by_one() -> None:
    """A file that no kustomization names would be deployed by nobody and tested by nobody."""
    for folder in {path.parent for path in DEPLOY.rglob("*.yaml") if path.parent != DEPLOY / "samples"}:
        said = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {*said.get("resources", ()), *(f for g in said.get("configMapGenerator", ()) for f in g["files"])}
        assert {path.name for path in folder.iterdir() if path.is_file()} - {"kustomization.yaml"} <= named


@pytest.mark.parametrize(
    "text",
    [
        "resources: []\nnamePrefix: x-\n",
        "resources: []\npatches: [{target: {kind: Pod}, patch: '{metadata: {name: x}}', path: x}]\n",
        "resources: []\nlabels: [{pairs: {a: b}, includeSelectors: true}]\n",
    ],
)
def test_what_the_renderer_does_not_know_it_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "kustomization.yaml").write_text(text)
    with pytest.raises(Unsupported):
        render(tmp_path)
