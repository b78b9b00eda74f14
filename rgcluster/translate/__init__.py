"""Inference with trained translators."""
