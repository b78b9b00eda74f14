"""`rgcluster bench gpu`: what a machine with a GPU shows in one run, without Ray."""
