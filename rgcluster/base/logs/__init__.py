"""Logs of a run as JSON lines: what operators read, and what workers tell the user."""
