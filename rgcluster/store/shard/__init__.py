"""One shard of a store, without Ray."""
