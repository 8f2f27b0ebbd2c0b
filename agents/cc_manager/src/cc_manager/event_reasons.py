"""The Kubernetes Events that cc-manager posts on the Node."""

from nodelib.event_reasons import EventReason, EventType

MODE_CHANGED = EventReason("CcModeChanged", "Every device was verified in another mode than before.")
MODE_FAILED = EventReason(
    "CcModeFailed", "An attempt to bring the node to its mode failed; the message says why.", EventType.WARNING
)
MODE_WAITS = EventReason("CcModeWaits", "A change of mode waits for those who use a device; the message names them.")
MODE_DOUBTFUL = EventReason(
    "CcModeDoubtful", "The wanted mode may well be a mistake on this node; it is set all the same.", EventType.WARNING
)
DRIFTED = EventReason(
    "CcModeDrifted", "A device was found in another mode than the node was told to be in.", EventType.WARNING
)
DEVICE_LOST = EventReason(
    "GpuLeftBus", "A device that was there since the node booted is on the bus no more.", EventType.WARNING
)
POD_EVICTED = EventReason("PodEvicted", "A pod that held a device was asked to go, for a change of mode.")
OPERANDS_STUCK = EventReason(
    "OperandsStayPaused",
    "Operands stay paused after a failure, because a device would change its mode at its next reset.",
    EventType.WARNING,
)
