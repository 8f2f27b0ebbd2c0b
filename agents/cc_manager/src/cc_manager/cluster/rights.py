"""Every call that cc-manager makes to the API server, as rights, and what is lost without each. Pure.

The manifests give exactly these, `doctor` asks for them, and a test compares both with the calls that are made.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource, in the words of RBAC."""

    verb: str
    resource: str
    """With its subresource: `pods/eviction`."""
    group: str = ""
    namespace: str = ""
    """Empty: in the whole cluster, or the resource has none."""
    why: str = ""
    """What it is for, as the end of "to ..."."""
    without: str = ""
    """What cc-manager does without it; empty: it cannot work."""

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{where}"

    @property
    def is_needed(self) -> bool:
        return not self.without


def rights(namespace: str, *, pauses: bool = True, claims: bool = False, evicts: bool = False) -> tuple[Right, ...]:
    """What cc-manager asks of the API server; *namespace* is the operands'."""
    found = [
        Right("get", "nodes", why="read the node's labels"),
        Right("patch", "nodes", why="publish the mode, and pause operands"),
        Right("list", "nodes", why="watch the label", without="the label is only looked at by the timer"),
        Right("watch", "nodes", why="watch the label", without="the label is only looked at by the timer"),
        Right("create", "events", namespace="default", why="tell an administrator", without="no Events are posted"),
        Right(
            "list",
            "pods",
            why="know which pods that have devices have ended",
            without="every pod that the kubelet names counts as alive, and none can be evicted",
        ),
    ]
    if pauses:
        found += [
            Right("list", "pods", namespace=namespace, why="see that paused operands are gone"),
            Right(
                "watch",
                "pods",
                namespace=namespace,
                why="see at once that paused operands are gone",
                without="their pods are listed again and again",
            ),
        ]
    if pauses or claims:
        found.append(
            Right(
                "list",
                "daemonsets",
                "apps",
                namespace,
                why="know which pods run an operand",
                without="operands are known by the labels and node selectors of their pods, and none is claimed",
            )
        )
    if evicts:
        found.append(
            Right("create", "pods/eviction", why="evict", without="a change waits for the pods, and evicts none")
        )
    return tuple(found)
