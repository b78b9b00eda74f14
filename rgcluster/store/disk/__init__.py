"""The snapshot of a store on disk."""
