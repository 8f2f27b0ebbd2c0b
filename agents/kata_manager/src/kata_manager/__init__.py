"""kata-manager: keeps the CDI specs by which the Kata runtime finds a node's GPUs."""
