"""Vectors to neighbours: exact and approximate indexes."""
