"""A trained translator in use."""
