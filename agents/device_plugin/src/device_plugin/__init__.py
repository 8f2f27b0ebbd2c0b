"""device-plugin: advertises a node's assignable GPUs to the kubelet and allocates them."""
