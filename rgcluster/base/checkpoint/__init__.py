"""Checkpoints: a tree of tensors and JSON values, and its manifest."""
