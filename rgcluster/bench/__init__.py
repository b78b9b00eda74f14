"""Benchmarks: ratios of two measurements of one run, since machines differ and their speed varies."""

import os

# Read when Ray starts: its processes would run at niceness 15, and what they are held against, in this one, at 0.
os.environ.setdefault("RAY_worker_niceness", "0")
