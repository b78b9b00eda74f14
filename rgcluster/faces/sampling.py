"""Draws the 40 attributes with marginals and correlations like those of CelebA."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rgcluster.config.celeba import CELEBA_ATTRIBUTES

__all__ = ["HAIR_COLOURS", "sample_attributes", "with_changes"]

HAIR_COLOURS: tuple[str, ...] = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")

# At most one of each group: the others hide it or contradict it.
_EXCLUSIVE: tuple[tuple[str, ...], ...] = (
    (*HAIR_COLOURS, "Bald"),
    ("Bangs", "Receding_Hairline", "Bald"),
    ("Straight_Hair", "Wavy_Hair", "Bald"),
    ("5_o_Clock_Shadow", "Goatee", "No_Beard"),
)

_ONLY_MEN = (
    "5_o_Clock_Shadow",
    "Bald",
    "Goatee",
    "Mustache",
    "Receding_Hairline",
    "Sideburns",
    "Wearing_Necktie",
)
_ONLY_WOMEN = ("Heavy_Makeup", "Rosy_Cheeks", "Wearing_Earrings", "Wearing_Lipstick", "Wearing_Necklace")
"""Attributes that `sample_attributes` gives to one gender alone."""

# Probabilities of the four hair colours above; what is left has some other colour.
_HAIR_COLOUR_ODDS: dict[tuple[int, int], tuple[float, float, float, float]] = {
    # (Male, Young)
    (1, 1): (0.36, 0.10, 0.25, 0.02),
    (0, 1): (0.23, 0.24, 0.26, 0.01),
    (1, 0): (0.18, 0.06, 0.16, 0.35),
    (0, 0): (0.15, 0.25, 0.18, 0.20),
}

# attribute: (probability for women, probability for men), drawn independently
_INDEPENDENT_ODDS: dict[str, tuple[float, float]] = {
    "Arched_Eyebrows": (0.42, 0.06),
    "Bags_Under_Eyes": (0.12, 0.30),
    "Big_Lips": (0.28, 0.20),
    "Big_Nose": (0.10, 0.42),
    "Blurry": (0.05, 0.05),
    "Bushy_Eyebrows": (0.05, 0.28),
    "Chubby": (0.03, 0.10),
    "Eyeglasses": (0.03, 0.12),
    "High_Cheekbones": (0.55, 0.30),
    "Mouth_Slightly_Open": (0.53, 0.42),
    "Narrow_Eyes": (0.12, 0.12),
    "Oval_Face": (0.28, 0.28),
    "Pale_Skin": (0.04, 0.04),
    "Pointy_Nose": (0.33, 0.20),
    "Smiling": (0.54, 0.40),
    "Wearing_Hat": (0.02, 0.06),
}


def sample_attributes(rng: np.random.Generator) -> dict[str, int]:
    """Draw one person's attributes.

    Returns all 40 names of CelebA mapped to 0 or 1. At most one hair colour is
    1, and none where `Bald` is.
    """
    attributes = dict.fromkeys(CELEBA_ATTRIBUTES, 0)
    male = _coin(rng, 0.42)
    attributes["Male"] = male
    attributes["Young"] = _coin(rng, 0.65 if male else 0.86)
    for name, odds in _INDEPENDENT_ODDS.items():
        attributes[name] = _coin(rng, odds[male])
    attributes["Double_Chin"] = _coin(rng, 0.5 if attributes["Chubby"] else 0.015)
    _sample_hair(rng, attributes)
    if male:
        _sample_beard(rng, attributes)
        attributes["Wearing_Necktie"] = _coin(rng, 0.17)
    else:
        attributes["No_Beard"] = 1
        _sample_adornment(rng, attributes)
    likely = 0.45 if male else 0.70
    attributes["Attractive"] = _coin(rng, likely if attributes["Young"] else 0.15)
    return attributes


def with_changes(attributes: Mapping[str, int], changes: Mapping[str, int]) -> dict[str, int]:
    """Return `attributes` with `changes` made and what contradicts them cleared.

    Setting a hair colour clears the other colours and `Bald`, and likewise
    `Bald`, `Bangs` and `Receding_Hairline`, `Straight_Hair` and `Wavy_Hair`,
    and the kinds of beard exclude each other. A change of `Male` clears what no
    sampled face of that gender has, such as a woman's stubble, unless `changes`
    asks for it: a translator learns from samples, so a truth that none of them
    resembles would punish what they teach. Clearing any other attribute changes
    nothing else. Of contradicting changes the last one stands.
    """
    result = {name: int(bool(value)) for name, value in attributes.items()}
    for name, value in changes.items():
        for group in _EXCLUSIVE:
            if value and name in group:
                result.update(dict.fromkeys(group, 0))
        result[name] = int(bool(value))
    if "Male" in changes and result["Male"] != int(bool(attributes.get("Male", 0))):
        foreign = _ONLY_WOMEN if result["Male"] else _ONLY_MEN
        result.update({name: 0 for name in foreign if name not in changes and name in result})
        bearded = any(result.get(name) for name in ("5_o_Clock_Shadow", "Goatee"))
        if not result["Male"] and "No_Beard" in result and "No_Beard" not in changes and not bearded:
            result["No_Beard"] = 1
    return result


def _coin(rng: np.random.Generator, probability: float) -> int:
    return int(rng.random() < probability)


def _sample_hair(rng: np.random.Generator, attributes: dict[str, int]) -> None:
    male, young = attributes["Male"], attributes["Young"]
    attributes["Bald"] = _coin(rng, (0.04 if young else 0.12) * male)
    if attributes["Bald"]:
        return
    odds = _HAIR_COLOUR_ODDS[male, young]
    colour = int(rng.choice(len(HAIR_COLOURS) + 1, p=(*odds, 1 - sum(odds))))
    if colour < len(HAIR_COLOURS):
        attributes[HAIR_COLOURS[colour]] = 1
    texture = int(rng.choice(3, p=(0.30, 0.25, 0.45) if male else (0.22, 0.50, 0.28)))
    attributes["Straight_Hair"] = int(texture == 0)
    attributes["Wavy_Hair"] = int(texture == 1)
    if male:
        attributes["Receding_Hairline"] = _coin(rng, 0.10 if young else 0.35)
    if not attributes["Receding_Hairline"]:
        attributes["Bangs"] = _coin(rng, 0.05 if male else 0.22)


def _sample_beard(rng: np.random.Generator, attributes: dict[str, int]) -> None:
    kind = rng.choice(4, p=(0.50, 0.20, 0.13, 0.17))
    stubble, goatee, full = (int(kind == k) for k in (1, 2, 3))
    attributes["5_o_Clock_Shadow"] = stubble
    attributes["Goatee"] = goatee
    attributes["Mustache"] = _coin(rng, 0.5 if goatee or full else 0.04)
    attributes["Sideburns"] = _coin(rng, 0.5 if full else 0.06)
    attributes["No_Beard"] = int(kind == 0)


def _sample_adornment(rng: np.random.Generator, attributes: dict[str, int]) -> None:
    attributes["Wearing_Lipstick"] = _coin(rng, 0.8 if attributes["Young"] else 0.6)
    attributes["Heavy_Makeup"] = _coin(rng, 0.62 * attributes["Wearing_Lipstick"])
    attributes["Wearing_Earrings"] = _coin(rng, 0.30)
    attributes["Wearing_Necklace"] = _coin(rng, 0.20)
    attributes["Rosy_Cheeks"] = _coin(rng, 0.11)
