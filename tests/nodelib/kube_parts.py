"""What the tests of `nodelib.kube` share."""

from nodelib.kube import ApiAccess, Kube

NODE = "/api/v1/nodes/node-1"
NODES = "/api/v1/nodes"


def unauthenticated(url: str) -> Kube:
    return Kube(ApiAccess(url))


def field(value: object, *keys: str) -> object:
    """The field of a JSON object that lies below *keys*."""
    for key in keys:
        assert isinstance(value, dict)
        value = value[key]
    return value
