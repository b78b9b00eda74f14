"""Measurements: ratios of two things taken in one run, since machines differ and have moods."""
