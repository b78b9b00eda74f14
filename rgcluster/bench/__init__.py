"""Benchmarks. They report ratios of two measurements in one run, because the speed of machines varies."""

import os

# Read when Ray starts. By default its processes run at niceness 15, but the baseline in this process at 0.
os.environ.setdefault("RAY_worker_niceness", "0")
