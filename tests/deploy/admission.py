"""The admission policy, evaluated as the API server does it, by Google's CEL (cel-cpp behind cel-expr-python).

What this does not cover: the API server compiles with cel-go and its own libraries and knows the types of Node and of
the request, where everything here is of a dynamic type; its cost limits; matching of resources and operations beyond
what `is_matched` does; and what it puts into a request by itself (here: `node_request`, from the API's documentation).
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from cel_expr_python import cel

from tests.deploy.render import Object

NODE_NAME = "authentication.kubernetes.io/node-name"


class _Undecided(Exception):
    """An expression could not be evaluated, which under `failurePolicy: Fail` is a no."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request goes through, and the messages of what forbade it."""

    allowed: bool
    messages: tuple[str, ...] = ()


class Policy:
    """One ValidatingAdmissionPolicy."""

    def __init__(self, policy: Object) -> None:
        self._spec = policy["spec"]
        assert self._spec["failurePolicy"] == "Fail"
        names = ("object", "oldObject", "request", "variables")
        self._cel = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))

    def is_matched(self, request: Object) -> bool:
        """Whether the policy is asked about *request* at all."""
        return any(
            request["operation"] in rule["operations"] and self._names(rule, request)
            for rule in self._spec["matchConstraints"]["resourceRules"]
        )

    def judge(self, request: Object, new: Object | None, old: Object | None) -> Verdict:
        """What the API server says to *request*, which would make *new* of *old*."""
        given: dict[str, object] = {"request": request, "object": new, "oldObject": old}
        if not self.is_matched(request):
            return Verdict(allowed=True)
        for condition in self._spec["matchConditions"]:
            if self._value(condition["expression"], given) is not True:
                return Verdict(allowed=True)
        variables: dict[str, object] = {}
        for variable in self._spec["variables"]:
            try:
                variables[variable["name"]] = self._value(variable["expression"], {**given, "variables": variables})
            except _Undecided:
                continue  # whoever refers to it fails in turn
        given["variables"] = variables
        messages = tuple(one["message"] for one in self._spec["validations"] if not self._holds(one, given))
        return Verdict(not messages, messages)

    def _holds(self, validation: Object, given: Mapping[str, object]) -> bool:
        try:
            return self._value(validation["expression"], given) is True
        except _Undecided:
            return False

    def _value(self, expression: str, given: Mapping[str, object]) -> object:
        value = self._cel.compile(expression).eval(data=dict(given))
        if value.type() == cel.Type.ERROR:
            raise _Undecided(str(value.value()))
        return value.plain_value()

    @staticmethod
    def _names(rule: Object, request: Object) -> bool:
        resource, sub = request["resource"]["resource"], request.get("subResource", "")
        named = f"{resource}/{sub}" if sub else resource
        return named in rule["resources"] or (bool(sub) and f"{resource}/*" in rule["resources"])


def node_request(user: str, *, operation: str = "UPDATE", node_claim: str | None = "node-1", sub: str = "") -> Object:
    """What the API server tells a policy of a request about node-1 by *user*."""
    extra = {} if node_claim is None else {NODE_NAME: [node_claim]}
    request: Object = {
        "operation": operation,
        "resource": {"group": "", "version": "v1", "resource": "nodes"},
        "name": "node-1",
        "userInfo": {"username": user, "groups": ["system:serviceaccounts"], **({"extra": extra} if extra else {})},
    }
    return {**request, "subResource": sub} if sub else request


def changed(node: Object, *, labels: Mapping[str, str | None] | None = None, **metadata: object) -> Object:
    """*node* with labels set (None: removed) and other metadata replaced."""
    new = deepcopy(node)
    for key, value in (labels or {}).items():
        if value is None:
            new["metadata"]["labels"].pop(key)
        else:
            new["metadata"].setdefault("labels", {})[key] = value
    new["metadata"].update(metadata)
    return new
