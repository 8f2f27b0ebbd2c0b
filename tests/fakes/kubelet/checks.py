"""What the simulated kubelet makes of a plugin's messages: what it refuses, what is only odd."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api

# Source of every limit here: facts/kubelet-cdi-kata-contract.md, "Kubelet device plugin API".
MAX_DEVICE_ID_LENGTH = 63
MAX_NAME_LENGTH = 63
MAX_DOMAIN_LENGTH = 253
DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# facts/kubelet-cdi-kata-contract.md, "CDI": vendor, class and device name.
CDI_NAME = re.compile(
    r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
    r"=[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?"
)
NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def is_resource_name(text: str) -> bool:
    domain, slash, name = text.partition("/")
    return (
        slash == "/"
        and len(domain) <= MAX_DOMAIN_LENGTH
        and len(name) <= MAX_NAME_LENGTH
        and DOMAIN.fullmatch(domain) is not None
        and NAME.fullmatch(name) is not None
    )


def registration_problem(request: api.RegisterRequest, versions: Collection[str]) -> str | None:
    """Why the kubelet refuses *request* without asking the plugin anything."""
    if request.version not in versions:
        return (
            f'requested API version "{request.version}" is not supported by kubelet. '
            f"Supported versions are {sorted(versions)}"
        )
    if not is_resource_name(request.resource_name):
        return f'the ResourceName "{request.resource_name}" is invalid'
    # The contract asks for a base name. A folder in it could lead anywhere below the plugin folder.
    if not request.endpoint or "/" in request.endpoint:
        return f'the endpoint "{request.endpoint}" is not the base name of a socket'
    return None


def device_list_problems(resource_name: str, devices: Sequence[api.Device]) -> Iterator[str]:
    for device in devices:
        if not 0 < len(device.ID) <= MAX_DEVICE_ID_LENGTH:
            yield f"{resource_name}: device id {device.ID!r} is not 1 to 63 characters long"
        if device.health not in {"Healthy", "Unhealthy"}:
            yield f"{resource_name}: device {device.ID} has the unknown health {device.health!r}"
    for device_id, count in Counter(device.ID for device in devices).items():
        if count > 1:
            yield f"{resource_name}: device id {device_id!r} is in one list {count} times"


def preference_problems(
    request: api.ContainerPreferredAllocationRequest,
    preferred: Sequence[str],
) -> Iterator[str]:
    if len(preferred) != request.allocation_size or len(set(preferred)) != len(preferred):
        yield f"preferred {list(preferred)}, not {request.allocation_size} different ids"
    if unavailable := sorted(set(preferred) - set(request.available_deviceIDs)):
        yield f"preferred {unavailable}, which are not available"
    if missing := sorted(set(request.must_include_deviceIDs) - set(preferred)):
        yield f"did not prefer {missing}, which must be included"


def allocation_problems(response: api.AllocateResponse) -> Iterator[str]:
    if len(response.container_responses) > 1:
        yield f"answered one container request with {len(response.container_responses)} responses"
    for container in response.container_responses:
        for spec in container.devices:
            if not spec.permissions or set(spec.permissions) - set("rwm"):
                yield f"{spec.host_path} has the permissions {spec.permissions!r}"
            if not (spec.host_path.startswith("/") and spec.container_path.startswith("/")):
                yield f"the path {spec.host_path!r} or {spec.container_path!r} is not absolute"
        for device in container.cdi_devices:  # the kubelet passes them on, and the runtime then fails the container
            if CDI_NAME.fullmatch(device.name) is None:
                yield f"{device.name!r} is no qualified CDI name"
        for variable in container.envs:
            if not variable or "=" in variable or "\0" in variable:
                yield f"{variable!r} cannot be the name of an environment variable"
