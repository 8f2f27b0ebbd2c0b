"""How the agents' images come to be: what they hold (lock), how they are built (build), what is in them (sbom)."""
