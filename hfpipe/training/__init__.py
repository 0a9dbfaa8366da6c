"""The training loop, its trainer, checkpoints and cost."""
