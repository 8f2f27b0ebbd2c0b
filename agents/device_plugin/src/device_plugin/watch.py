"""Which of the kernel's events wake us."""

UEVENT_SUBSYSTEMS = ("pci", "vfio", "vfio-dev", "iommu")
"""What the kernel has to say about devices, their drivers and their VFIO nodes."""
