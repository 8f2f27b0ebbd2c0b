"""A simulated Kubernetes API server for one node, over real HTTP: `api` is the way in."""
