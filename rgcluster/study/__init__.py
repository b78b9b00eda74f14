"""Several runs that are compared: the paper's tables, and sweeps."""
