"""Brings every GPU and NVSwitch of the node to the confidential-computing mode that is asked for.

Pure modules (values in, values out): `mode`, `chips`, `knobs`, `mctp`, `errors`, `observation`, `plan`. The way to the
hardware, from the outside in: `access` (opened safely), `firewall` (Blackwell's, before BAR0), `bar0` (the mapping),
`hardware` (one device), `prc` (knobs), `emem` and `mnoc` (packets), `registers` (checked accesses).
"""
