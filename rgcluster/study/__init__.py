"""Comparisons of several runs: the paper's tables, and sweeps."""
