"""What each figure is, and what one should see in it."""

from __future__ import annotations

__all__ = ["CAPTIONS"]

CAPTIONS: dict[str, tuple[str, str]] = {
    "translations": (
        "Translations (Figure 4)",
        "Test images and, by RG-UNIT, each with one attribute changed. The named attribute should change; "
        "the person, the pose and the background should stay.",
    ),
    "comparison": (
        "The models side by side (Figure 9)",
        "The same changes by every model. With drawn faces the last column is the truth, the same face drawn "
        "with the other attribute: the nearer a translation comes to it, the better.",
    ),
    "retrievals": (
        "Retrievals (Figure 3)",
        "An image, the attributes asked for at its left, and the nearest images in the store. They should "
        "have the attributes asked for and otherwise resemble the query.",
    ),
    "samples": (
        "Samples (Figure 5)",
        "Translations to one domain that differ in the sampled style alone. All should show the attributes "
        "at the left; how much they differ is the diversity.",
    ),
    "masks": (
        "Attention masks (Figure 6)",
        "White is where the generator paints and black where the input shows through. The mask should cover "
        "what the change needs, the hair for a hair colour, and leave the rest.",
    ),
    "interpolation": (
        "Interpolation (Figure 7)",
        "From the style of one domain to another's in equal steps. The attribute should change steadily, and "
        "nothing else.",
    ),
    "triplets": (
        "Triplets (Figure 2)",
        "What the retrieval network learns from. The positive is the image translated to the attributes at "
        "the left, by stage 1. An easy negative is another image; a medium one is that image translated to "
        "the same attributes; a hard one is the image itself translated to others; the last is the image "
        "translated to its own domain.",
    ),
}
"""File name without its ending: title and caption."""
