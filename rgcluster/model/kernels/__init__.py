"""Convolutions and resampling that are faster than the library's where it matters."""
