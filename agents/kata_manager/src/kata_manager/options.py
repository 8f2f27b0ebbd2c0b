"""The options of kata-manager's verbs, and the settings that they come to."""

from typing import Any

import click

from kata_manager.settings import SPEC_VERSIONS, VHOST_MODULES, Settings
from nodelib.cdi import WRITTEN_VERSION
from nodelib.errors import InvalidValue
from nodelib.pod_resources import POD_RESOURCES_SOCKET
from nodelib.settings import naming_options, options
from nodelib.spec_files import DYNAMIC_FOLDER, SpecFormat

cdi_folder_option = click.option(
    "--cdi-dir",
    "cdi_folder",
    envvar="CDI_DIR",
    default=DYNAMIC_FOLDER,
    show_default=True,
    show_envvar=True,
    help="The host's folder for our specs, under --host-root.",
)

spec_options = options(
    naming_options,
    cdi_folder_option,
    click.option(
        "--spec-format",
        envvar="SPEC_FORMAT",
        default=SpecFormat.YAML.value,
        show_default=True,
        show_envvar=True,
        type=click.Choice([form.value for form in SpecFormat]),
        help="How the specs are written; runtimes read both.",
    ),
    click.option(
        "--cdi-version",
        envvar="CDI_VERSION",
        default=WRITTEN_VERSION,
        show_default=True,
        show_envvar=True,
        type=click.Choice(SPEC_VERSIONS),
        help="The specs' cdiVersion. Kata's Go runtime knows none above 0.6.0.",
    ),
)
"""What is written and how: the same for every verb, so that `plan` shows what `run` will do."""

run_options = options(
    click.option(
        "--load-kernel-modules/--no-load-kernel-modules",
        envvar="LOAD_KERNEL_MODULES",
        default=True,
        show_default=True,
        show_envvar=True,
        help=f"Load {' and '.join(VHOST_MODULES)} where they are not built in.",
    ),
    click.option(
        "--cdi/--no-cdi",
        "keeps_specs",
        envvar="CDI_ENABLED",
        default=True,
        show_default=True,
        show_envvar=True,
        help="Keep CDI specs; without, `run` only sees to the kernel modules.",
    ),
)

runtime_options = options(
    click.option(
        "--runtime",
        envvar="RUNTIME",
        default="auto",
        show_default=True,
        show_envvar=True,
        type=click.Choice(["auto", "containerd", "crio", "cri-o"], case_sensitive=False),
        help="The container runtime of this node; auto: each of which there is a configuration.",
    ),
    click.option(
        "--containerd-config",
        envvar="CONTAINERD_CONFIG",
        default="",
        show_envvar=True,
        help="containerd's configuration on the host. Default: /etc/containerd/config.toml, k3s's or RKE2's.",
    ),
    click.option(
        "--containerd-socket",
        envvar="CONTAINERD_SOCKET",
        default="/run/containerd/containerd.sock",
        show_default=True,
        show_envvar=True,
        help="containerd's socket on the host.",
    ),
    click.option(
        "--crio-config",
        envvar="CRIO_CONFIG",
        default="/etc/crio/crio.conf",
        show_default=True,
        show_envvar=True,
        help="CRI-O's configuration on the host; its drop-ins are in the folder of that name with .d.",
    ),
    click.option(
        "--pod-resources-socket",
        envvar="POD_RESOURCES_SOCKET",
        default=POD_RESOURCES_SOCKET,
        show_default=True,
        show_envvar=True,
        help="The kubelet's PodResources socket on the host.",
    ),
)


def parse_runtime(chosen: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """The runtime's name and the host's paths, each from the root. Raises InvalidValue for one that is not."""
    paths = ("containerd_config", "containerd_socket", "crio_config", "pod_resources_socket")
    for name in paths:
        if chosen[name] and not chosen[name].startswith("/"):
            raise InvalidValue(f"--{name.replace('_', '-')} {chosen[name]!r} must be a path of the host from its root")
    runtime = {"crio": "cri-o"}.get(chosen["runtime"], chosen["runtime"])
    return runtime, *(chosen[name] for name in paths)


def parse_settings(chosen: dict[str, Any]) -> Settings:
    """The settings that the options come to. Raises InvalidValue."""
    return Settings(
        naming=chosen["naming"],
        cdi_folder=chosen["cdi_folder"],
        remove_on_stop=chosen.get("remove_on_stop", False),
        form=SpecFormat(chosen["spec_format"]),
        version=chosen["cdi_version"],
        modules=VHOST_MODULES if chosen.get("load_kernel_modules", True) else (),
        keeps_specs=chosen.get("keeps_specs", True),
    )
