"""What Node Feature Discovery makes of our rules, for the operators that they use.

Meaning: Node Feature Discovery, documentation of NodeFeatureRule. All expressions of a matcher hold for one
element; `matchFeatures` is an "and", `matchAny` an "or" of such lists, and where a rule has both, both must hold. An
absent attribute meets none of these operators.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from tests.deploy.render import Object

Element: TypeAlias = Mapping[str, str]
Features: TypeAlias = Mapping[str, Sequence[Element]]
"""Feature name to its elements: `pci.device` has many, an attribute set such as `cpu.security` one."""

_OPERATORS: Mapping[str, Callable[[str, Sequence[str]], bool]] = {
    "In": lambda value, given: value in given,
    # Go's MatchString looks anywhere in the text, as `search` does: our expressions must hold their own anchors.
    "InRegexp": lambda value, given: any(re.search(pattern, value) for pattern in given),
    "Exists": lambda _value, _given: True,
    "IsTrue": lambda value, _given: value == "true",
}


def labels_and_resources(rules: Sequence[Object], features: Features) -> tuple[dict[str, str], dict[str, str]]:
    """The labels and the extended resources that *rules* give a node with *features*."""
    labels: dict[str, str] = {}
    resources: dict[str, str] = {}
    for rule in rules:
        if rule_matches(rule, features):
            labels.update(rule.get("labels", {}))
            for name, value in rule.get("extendedResources", {}).items():
                resources[name] = _resolved(value, features)
    return labels, resources


def rule_matches(rule: Object, features: Features) -> bool:
    """Whether a node with *features* meets *rule*."""
    either = rule.get("matchAny", ())
    return _all_match(rule.get("matchFeatures", ()), features) and (
        not either or any(_all_match(one["matchFeatures"], features) for one in either)
    )


def _all_match(matchers: Sequence[Object], features: Features) -> bool:
    return all(
        any(_meets(element, matcher["matchExpressions"]) for element in features.get(matcher["feature"], ()))
        for matcher in matchers
    )


def _meets(element: Element, expressions: Mapping[str, Object]) -> bool:
    return all(
        key in element and _OPERATORS[expression["op"]](element[key], expression.get("value", ()))
        for key, expression in expressions.items()
    )


def _resolved(value: str, features: Features) -> str:
    """`@cpu.security.tdx.total_keys` is the value of that attribute; anything else is meant as it is."""
    if not value.startswith("@"):
        return value
    domain, feature, attribute = value.removeprefix("@").split(".", 2)
    return features[f"{domain}.{feature}"][0][attribute]
