"""What one would use instead of a part of this package, measured beside it; installed by the extra `peers`."""
