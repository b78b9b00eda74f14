"""Foundations of all other packages: storage, run directories, checkpoints, placement, sessions."""
