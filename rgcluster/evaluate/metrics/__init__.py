"""Metrics, the judge and the features they are computed on."""
