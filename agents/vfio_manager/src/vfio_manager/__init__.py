"""vfio-manager: keeps every GPU (and NVSwitch) of a node bound to its VFIO driver, and disturbs nothing else."""
