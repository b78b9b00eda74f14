"""Records of a training: metrics, gauges, trackers."""
