"""Measurements: ACC, P@10, FID, IS, KID, diversity, distances to counterfactuals."""
