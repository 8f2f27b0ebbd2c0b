"""Every overlay and component comes to what tests/deploy/expected says.

After a change that is meant: `python -m tests.deploy.test_meaning`, and read what `git diff` shows of it.
"""

import shutil
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import BASE, COMPONENTS, OVERLAYS, deployed, with_component
from tests.deploy.meaning import meaning

EXPECTED = Path(__file__).parent / "expected"
KUSTOMIZATIONS = (BASE, *OVERLAYS, *COMPONENTS)


def comes_to(kustomization: Path, folder: Path) -> dict[str, object]:
    """The meaning of base or an overlay, or of base with a component."""
    is_component = kustomization in COMPONENTS
    return meaning(with_component(kustomization.name, folder) if is_component else deployed(kustomization))


def expectation(kustomization: Path) -> Path:
    """The file with what it should come to."""
    return EXPECTED / f"{kustomization.parent.name.rstrip('s')}-{kustomization.name}.yaml"


@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_it_comes_to_what_is_expected(kustomization: Path, tmp_path: Path) -> None:
    expected = yaml.safe_load(expectation(kustomization).read_text(encoding="utf-8"))
    assert comes_to(kustomization, tmp_path) == expected, (
        f"{kustomization.name} is not as {expectation(kustomization).name} says; if that is meant, write it anew with "
        f"python -m tests.deploy.test_meaning"
    )


def test_nothing_is_expected_of_what_is_not_there() -> None:
    assert {path.name for path in EXPECTED.iterdir()} == {expectation(one).name for one in KUSTOMIZATIONS}


def write_anew() -> None:
    """Write every expectation as things are now."""
    shutil.rmtree(EXPECTED, ignore_errors=True)
    EXPECTED.mkdir()
    for one in KUSTOMIZATIONS:
        with tempfile.TemporaryDirectory() as folder:
            text = yaml.safe_dump(comes_to(one, Path(folder)), sort_keys=False, width=110)
        expectation(one).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_anew()
