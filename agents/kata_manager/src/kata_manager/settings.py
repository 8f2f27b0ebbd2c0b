"""What kata-manager was told to do, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodelib.cdi import WRITTEN_VERSION
from nodelib.cdi_parse import VERSIONS
from nodelib.errors import InvalidValue
from nodelib.names import NVIDIA_DOMAIN
from nodelib.spec_files import DYNAMIC_FOLDER, SpecFormat
from nodelib.vfio import Naming

SPEC_VERSIONS = VERSIONS[VERSIONS.index(WRITTEN_VERSION) :]
"""In the older ones no name may begin with a digit, and all of ours that matter do."""
VHOST_MODULES = ("vhost_vsock", "vhost_net")
"""What a Kata VM talks and networks through: the host's ends of its vsock and of its virtio network."""
_MEANINGLESS = {
    "CONFIG_FILE": "there are no artifacts to install by it",
    "POD_NAMESPACE": "Events are posted on the node",
}
"""Variables of existing manifests that nothing here depends on, and why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the specs go, how they are written and what their devices are called."""

    naming: Naming = field(default_factory=Naming)
    cdi_folder: str = DYNAMIC_FOLDER
    """A path of the host."""
    remove_on_stop: bool = False
    """Whether a clean stop takes our specs away; pods that run need them no more, pods that start do."""
    form: SpecFormat = SpecFormat.YAML
    version: str = WRITTEN_VERSION
    modules: tuple[str, ...] = VHOST_MODULES
    """The kernel modules to have loaded."""
    keeps_specs: bool = True
    """Whether the specs are ours to keep at all; if not, only the modules are seen to."""

    def __post_init__(self) -> None:
        if not self.cdi_folder.startswith("/"):
            raise InvalidValue(
                f"--cdi-dir {self.cdi_folder!r} must be a path of the host from its root, as {DYNAMIC_FOLDER} is"
            )

    @property
    def kinds(self) -> frozenset[str]:
        """The CDI kinds that are ours whatever devices there are; with an empty alias the models decide."""
        aliases = (self.naming.gpu_alias, self.naming.nvswitch_alias)
        return frozenset(f"{NVIDIA_DOMAIN}/{alias}" for alias in aliases if alias)


def meaningless(environment: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each variable of existing manifests that is set and has no effect."""
    return tuple(f"{name} is set and has no effect: {why}" for name, why in _MEANINGLESS.items() if name in environment)
