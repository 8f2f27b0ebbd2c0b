"""What every agent knows about a node: its PCI devices, IOMMU groups, VFIO nodes, CDI names and life.

Pure modules (values in, values out): `errors`, `problem`, `pci`, `nvidia`, `iommu`, `inventory`, `names`, `vfio`,
`cdi`. Everything else is an effect, one door each: `sysfs`, `config_space`, `kernel_writes`, `files`, ...
"""
