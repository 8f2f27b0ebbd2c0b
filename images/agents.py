"""The four agents as packages: where they are, and what each says of itself in its pyproject.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("vfio_manager", "kata_manager", "cc_manager", "device_plugin")
"""The folders below `agents`, which are the import names too."""


@dataclass(frozen=True, slots=True)
class Agent:
    """What an agent's pyproject.toml says."""

    name: str
    distribution: str
    version: str
    description: str
    dependencies: tuple[str, ...]

    @property
    def image(self) -> str:
        """The name of its image, which is that of its command."""
        return self.name.replace("_", "-")

    @property
    def folder(self) -> Path:
        return ROOT / "agents" / self.name

    @property
    def lock(self) -> Path:
        return self.folder / "requirements.lock"


def agent(name: str) -> Agent:
    """The agent in the folder `agents/NAME`. Raises ValueError for a name that is none; `vfio-manager` will do."""
    name = name.replace("-", "_")
    if name not in NAMES:
        raise ValueError(f"{name!r} is no agent: the agents are {', '.join(NAMES)}")
    project = pyproject(name)["project"]
    return Agent(
        name, project["name"], project["version"], project["description"], tuple(project.get("dependencies", ()))
    )


def pyproject(folder: str) -> dict[str, Any]:
    """What agents/FOLDER/pyproject.toml says."""
    return tomllib.loads((ROOT / "agents" / folder / "pyproject.toml").read_text())
