"""What a training writes about itself: metrics, gauges, trackers."""
