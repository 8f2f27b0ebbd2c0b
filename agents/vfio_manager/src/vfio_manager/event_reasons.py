"""The Kubernetes Events that vfio-manager posts on the Node."""

from nodelib.event_reasons import EventReason, EventType

NOT_BOUND = EventReason(
    "NotBoundToVfio", "A function that belongs on a VFIO driver is not on it; the message says why.", EventType.WARNING
)
BOUND = EventReason("BoundToVfio", "After such a message: every function is on its VFIO driver again.")
