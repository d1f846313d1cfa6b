"""The network of the paper and of the published code: its parts, its losses, its checkpoints."""
