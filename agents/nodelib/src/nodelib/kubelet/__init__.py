"""The kubelet's gRPC contracts as generated from the proto folder, and nothing written by hand."""
