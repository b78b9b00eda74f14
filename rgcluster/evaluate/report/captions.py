"""What each figure is, and what one should see in it."""

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
    "interpolation-moving": (
        "Interpolation in motion",
        "The same, there and back. What moves beside the attribute is what the model confuses with it.",
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
        "differs. Below stand the mean absolute distances to the truth, of the input and of the translation: "
        "where the second is larger, the change was not worth its errors.",
    ),
    "failures": (
        "Failure cases",
        "The evaluation's inputs in whose RG-UNIT translations the judge sees least of the attributes asked "
        "for, the worst first. Below each translation stands in how many attributes the judge contradicts the "
        "target, or what it sees instead; it errs too.",
    ),
    "triplets": (
        "Triplets (Figure 2)",
        "What the retrieval network learns from. The positive is the image translated to the attributes at "
        "the left, by stage 1. An easy negative is another image; a medium one is that image translated to "
        "the same attributes; a hard one is the image itself translated to others; the last is the image "
        "translated to its own domain.",
    ),
}
"""Name: title and caption. The file has this name and the ending .png, but for `FILES`."""

FILES = {"interpolation-moving": "interpolation.gif"}
