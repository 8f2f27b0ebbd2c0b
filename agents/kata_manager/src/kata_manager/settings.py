"""What kata-manager was told to do, checked."""

from dataclasses import dataclass, field

from nodelib.spec_files import DYNAMIC_FOLDER
from nodelib.vfio import Naming


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the specs go and what their devices are called."""

    naming: Naming = field(default_factory=Naming)
    cdi_folder: str = DYNAMIC_FOLDER
    """A path of the host."""
    remove_on_stop: bool = False
    """Whether a clean stop takes our specs away; pods that run need them no more, pods that start do."""
