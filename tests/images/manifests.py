"""How the DaemonSets of an existing GPU operator run the images: facts/labels-and-settings.md, "Under an existing GPU
operator" and "Environment variables that existing manifests set"."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Existing:
    """One agent there."""

    command: tuple[str, ...] = ()
    """In place of the image's entry point; without one it is the entry point, and never any arguments."""
    environment: Mapping[str, str] = field(default_factory=dict)
    pre_stop: tuple[str, ...] = ()


EXISTING = {
    "cc_manager": Existing(
        environment={
            "NODE_NAME": "node-1",
            "DEFAULT_CC_MODE": "off",
            "EVICT_OPERATOR_COMPONENTS": "true",
            "OPERATOR_NAMESPACE": "gpu-operator",
            "CC_CAPABLE_DEVICE_IDS": "0x2331,0x2322",
        },
        pre_stop=("/bin/rm", "-f", "/run/nvidia/validations/.cc-manager-ctr-ready"),
    ),
    "vfio_manager": Existing(
        command=("/bin/sh", "-c", "vfio-manage bind --all && while true; do sleep 86400; done"),
        environment={"HOST_ROOT": "/host", "BIND_NVSWITCHES": "false"},
        pre_stop=("/bin/sh", "-c", "vfio-manage unbind --all"),
    ),
    "kata_manager": Existing(
        command=("/bin/sh", "-c", "/bin/entrypoint.sh"),
        environment={
            "NODE_NAME": "node-1",
            "POD_NAMESPACE": "gpu-operator",
            "CONFIG_FILE": "/etc/kata-manager/config.yaml",
            "LOAD_KERNEL_MODULES": "true",
            "CDI_ENABLED": "true",
            "RUNTIME": "containerd",
            "CONTAINERD_CONFIG": "/runtime/config-dir/config.toml",
            "CONTAINERD_SOCKET": "/runtime/sock-dir/containerd.sock",
            "KATA_ARTIFACTS_DIR": "/opt/nvidia-gpu-operator/artifacts/runtimeclasses",
        },
    ),
    "device_plugin": Existing(
        environment={
            "NODE_NAME": "node-1",
            "POD_NAMESPACE": "gpu-operator",
            "POD_SERVICE_ACCOUNT": "nvidia-kata-sandbox-device-plugin",
            "P_GPU_ALIAS": "pgpu",
            "NVSWITCH_ALIAS": "nvswitch",
            "ENABLE_GFD": "false",
        },
    ),
}
