"""The stages of a run as a graph."""
