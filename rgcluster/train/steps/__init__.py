"""The training step of each stage."""
