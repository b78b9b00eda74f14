"""What the parts of a face are drawn with."""
