"""The Kubernetes Events that device-plugin posts on the Node."""

from nodelib.event_reasons import EventReason, EventType

UNHEALTHY = EventReason(
    "DeviceUnhealthy", "A GPU or NVSwitch cannot be given to a pod as it is; the message says why.", EventType.WARNING
)
HEALTHY = EventReason("DeviceHealthy", "After such a message: the GPU or NVSwitch can be given to pods again.")
STILL_IN_USE = EventReason(
    "AllocatedWhileInUse",
    "A pod was given a device that a virtual machine still had open after the wait; its own machine may have to retry.",
    EventType.WARNING,
)
