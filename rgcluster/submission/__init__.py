"""Submission of jobs to existing clusters: checks before, and logs until the job ends."""
