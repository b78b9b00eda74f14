"""The parts of a drawn face."""
