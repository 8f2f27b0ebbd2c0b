"""What the host itself says: whether its CPU can protect a VM, and which boot this is."""

from nodelib.errors import NodeError
from nodelib.files import HostRoot
from nodelib.sysfs import Sysfs

_TEE_PARAMETERS = (("kvm_amd", "sev_snp"), ("kvm_intel", "tdx"))
"""KVM's module parameters for AMD SEV-SNP and Intel TDX; they read Y or 1 where it is on."""


def has_tee(sysfs: Sysfs) -> bool:
    """Whether the CPU offers confidential computing to virtual machines, and it is switched on."""
    return any(sysfs.module_parameter(module, name) in ("Y", "1") for module, name in _TEE_PARAMETERS)


def boot_id(host: HostRoot) -> str:
    """The kernel's random id of this boot (random(4)). Raises NodeError."""
    path = host.resolve("/proc/sys/kernel/random/boot_id")
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(f"cannot read the boot id {path}: mount the host's /proc under --host-root") from error
