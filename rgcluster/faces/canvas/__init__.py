"""Tools for drawing the parts of a face."""
