"""The Ray cluster around this process: its address, its job, and what Ray keeps private."""
