"""`make demo`: the four agents, the real code, on a simulated node, each step verified by reading back."""
