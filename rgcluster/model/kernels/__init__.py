"""Convolutions and resampling that are faster than torch's."""
