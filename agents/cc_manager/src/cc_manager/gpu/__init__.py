"""One device and its firmware. Knows neither the other devices of the node nor the cluster.

From the outside in: `access` (opened safely), `firewall` (Blackwell's, before BAR0), `bar0` (the mapping),
`hardware` (one device), `prc` (knobs), `emem` and `mnoc` (packets), `registers` (checked accesses).
Pure: `chips`, `knobs`, `mctp`.
"""
