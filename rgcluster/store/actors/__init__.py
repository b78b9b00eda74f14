"""Shards as Ray actors, and the connections to them."""
