"""Titles and captions of the figures."""

from __future__ import annotations

__all__ = ["CAPTIONS", "FILES"]

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
        "An image, the target attributes at its left, and the nearest images in the store. They should "
        "have the target attributes and otherwise resemble the query.",
    ),
    "samples": (
        "Samples (Figure 5)",
        "Translations to one domain that differ only in the sampled style. All should show the attributes "
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
    "interpolation-moving": (
        "Interpolation in motion",
        "The same interpolation, forward and back. Anything else that moves is what the model confuses with the "
        "attribute.",
    ),
    "matrix": (
        "One face in every domain",
        "Rows and columns set attributes together, so most cells change several at once. Along a row only the "
        "column's attributes should change, down a column only the row's.",
    ),
    "changes": (
        "Retrievals for each change (Figure 8)",
        "An image and, for every change of an attribute, the two nearest images in the store.",
    ),
    "counterfactuals": (
        "Translations and the truth",
        "Drawn faces only: the translation beside the same face drawn with the target attributes, and what "
        "differs. The numbers are the mean absolute distances of the input and of the translation to the truth: "
        "where the second is larger, doing nothing would have been better.",
    ),
    "failures": (
        "Failure cases",
        "The inputs whose RG-UNIT translations show fewest of the target attributes, according to the judge; the "
        "worst first. Below each translation is the number of attributes in which the judge contradicts the "
        "target, or what it sees instead. The judge makes mistakes, too.",
    ),
    "triplets": (
        "Triplets (Figure 2)",
        "What the retrieval network learns from. The positive is the image translated to the attributes at "
        "the left, by stage 1. An easy negative is another image; a medium one is that image translated to "
        "the same attributes; a hard one is the image itself translated to others; the last is the image "
        "translated to its own domain.",
    ),
}
"""Title and caption by name. The file is `<name>.png`, except for those in `FILES`."""

FILES = {"interpolation-moving": "interpolation.webp"}
