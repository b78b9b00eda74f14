"""Measuring the models of a run by one protocol."""
