"""The node in the API server: its labels, its operands, its pods. Touches no device."""
