"""Brings every GPU and NVSwitch of the node to the confidential-computing mode that is asked for.

Pure modules (values in, values out): `mode`, `chips`, `knobs`, `mctp`, `errors`. The way to the hardware, outermost
last: `bar0` (the mapping), `registers` (checked accesses), `emem` (packets), `prc` (knobs), `hardware` (one device).
"""
