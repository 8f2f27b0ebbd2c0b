"""What the RBAC objects of a deployment let a service account do, in the words of the simulated API server."""

from collections.abc import Iterable, Iterator

from tests.deploy.manifests import NAMESPACE
from tests.deploy.render import Object

GROUPS = {"nodes": "", "pods": "", "pods/eviction": "", "events": "", "daemonsets": "apps"}
"""The API group of each resource that an agent asks for; a rule with another group would allow nothing."""

Right = tuple[str, ...]
"""(verb, resource) everywhere, or (verb, resource, namespace) in one namespace."""


def rights_of(objects: Iterable[Object], account: str, namespace: str = NAMESPACE) -> set[Right]:
    """Everything that is allowed to the service account *account* of *namespace*."""
    objects = list(objects)
    found: set[Right] = set()
    for binding in objects:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding") and _is_bound(binding, account, namespace):
            where = binding["metadata"].get("namespace") if binding["kind"] == "RoleBinding" else None
            for role in objects:
                if _is_meant(binding, role):
                    found |= {(*right, where) if where else right for right in _allowed(role)}
    return found


def _is_bound(binding: Object, account: str, namespace: str) -> bool:
    wanted = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    return any(bool(subject == wanted) for subject in binding["subjects"])


def _is_meant(binding: Object, role: Object) -> bool:
    reference, metadata = binding["roleRef"], role["metadata"]
    if (reference["kind"], reference["name"]) != (role["kind"], metadata["name"]):
        return False
    return bool(role["kind"] == "ClusterRole" or metadata["namespace"] == binding["metadata"]["namespace"])


def _allowed(role: Object) -> Iterator[Right]:
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}, f"{role['metadata']['name']}: {rule}"
        for resource in rule["resources"]:
            assert rule["apiGroups"] == [GROUPS[resource]], f"{resource} is of the API group {GROUPS[resource]!r}"
            for verb in rule["verbs"]:
                yield verb, resource
