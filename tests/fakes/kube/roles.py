"""What each agent may do with the API server: rights by verb and resource, and the question whether one is held."""

from collections.abc import Collection

from tests.fakes.kube.patch import JsonObject, section, text
from tests.fakes.kube.rules import ApiError

Right = tuple[str, ...]
"""(verb, resource) everywhere, or (verb, resource, namespace) in one namespace."""

OPERATOR_NAMESPACE = "gpu-operator"

CC_MANAGER_ROLE: frozenset[Right] = frozenset(
    {
        ("get", "nodes"),
        ("list", "nodes"),
        ("watch", "nodes"),
        ("patch", "nodes"),
        ("list", "pods"),
        ("watch", "pods"),
        ("list", "daemonsets", OPERATOR_NAMESPACE),
        ("create", "pods/eviction"),
        ("create", "events"),
    }
)
"""What DESIGN, section 4, lets cc-manager do."""
UNDER_OPERATOR_ROLE: frozenset[Right] = frozenset(
    {
        ("get", "nodes"),
        ("list", "nodes"),
        ("watch", "nodes"),
        ("patch", "nodes"),
        ("get", "pods", OPERATOR_NAMESPACE),
        ("list", "pods", OPERATOR_NAMESPACE),
        ("watch", "pods", OPERATOR_NAMESPACE),
    }
)
"""What an existing GPU operator gives cc-manager (facts/labels-and-settings.md)."""
EVENTS_ROLE: frozenset[Right] = frozenset({("create", "events")})
"""Of the three agents that only post Events."""
_EVERYBODY: frozenset[Right] = frozenset({("create", "selfsubjectaccessreviews")})
"""system:basic-user, which every authenticated client has."""


def allows(rights: Collection[Right], verb: str, resource: str, namespace: str) -> bool:
    right = (verb, resource)
    return right in rights or (*right, namespace) in rights or right in _EVERYBODY


def review(rights: Collection[Right], body: JsonObject) -> JsonObject:
    """The answer to a SelfSubjectAccessReview. Raises ApiError for one that asks nothing."""
    asked = section(body, "spec", "resourceAttributes")
    if not asked:
        raise ApiError(422, "spec.resourceAttributes: exactly one of nonResourceAttributes or resourceAttributes")
    resource = "/".join(part for part in (text(asked, "resource"), text(asked, "subresource")) if part)
    held = allows(rights, text(asked, "verb"), resource, text(asked, "namespace"))
    return body | {"status": {"allowed": held, "reason": "" if held else "no RBAC rule matched"}}
