"""Brings every GPU and NVSwitch of the node to the confidential-computing mode that is asked for.

Pure modules (values in, values out): `mode`, `chips`, `knobs`, `mctp`, `errors`. The way to the hardware, outermost
last: `bar0` (the mapping), `firewall` (Blackwell's, before it), `registers` (checked accesses), `emem` and `mnoc` (packets),
`prc` (knobs), `hardware` (one device), `access` (opened safely).
"""
