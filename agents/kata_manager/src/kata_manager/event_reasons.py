"""The Kubernetes Events that kata-manager posts on the Node."""

from nodelib.event_reasons import EventReason, EventType

NOT_READY = EventReason(
    "CdiNotReady",
    "A CDI spec cannot be written, is broken or in conflict, or a kernel module of Kata's is missing; the message says "
    "which and what to do.",
    EventType.WARNING,
)
READY = EventReason("CdiReady", "After such a message: the CDI specs and the kernel modules are right again.")
