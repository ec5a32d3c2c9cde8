"""Captions as predicates: what they say, in several wordings, and of which pictures it is true."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from attributes import ATTRIBUTES
from data import CLASSES
from torch import Tensor

__all__ = ["HELD_OUT", "KINDS", "Caption", "captions", "class_prompts", "truth", "wordings"]

KINDS = CLASSES["fashion"] + CLASSES["mnist"]
"""The twenty classes; the label of a digit is 10 plus its value."""

NOUNS = {
    "t-shirt": ["t-shirt", "tee shirt", "tee"],
    "trousers": ["trousers", "pants", "pair of trousers", "pair of pants"],
    "pullover": ["pullover", "sweater", "jumper"],
    "dress": ["dress", "gown"],
    "coat": ["coat", "overcoat"],
    "sandal": ["sandal", "sandals"],
    "shirt": ["shirt", "button-up shirt"],
    "sneaker": ["sneaker", "trainer", "sneakers", "running shoe"],
    "bag": ["bag", "handbag", "purse"],
    "boot": ["boot", "ankle boot", "boots"],
}
GROUPS = {
    ("sandal", "sneaker", "boot"): ["footwear", "shoes", "shoe", "piece of footwear"],
    ("t-shirt", "trousers", "pullover", "dress", "coat", "shirt"): [
        "clothing",
        "clothes",
        "garment",
        "piece of clothing",
    ],
    ("t-shirt", "pullover", "coat", "shirt"): ["top", "upper-body garment", "upper-body clothing", "tops"],
    tuple(CLASSES["fashion"]): ["fashion item", "fashion product", "fashion items"],
    tuple(CLASSES["mnist"][0::2]): [
        "even digit",
        "even number",
        "even digits",
        "even numbers",
        "handwritten even digit",
    ],
    tuple(CLASSES["mnist"][1::2]): ["odd digit", "odd number", "odd digits", "odd numbers", "handwritten odd digit"],
    tuple(CLASSES["mnist"]): ["digit", "number", "handwritten digit", "digits", "numbers"],
}
WITHOUT_ARTICLE = {"trousers", "pants", "footwear", "clothing", "clothes", "upper-body clothing", "tops"} | {
    f"{word}s" for word in ["sandal", "sneaker", "boot", "shoe", "fashion item", "digit", "number"]
}
TEMPLATES = ["{}", "{}", "a photo of {}", "a picture of {}", "an image of {}", "this is {}", "a drawing of {}"]
ADJECTIVES = {"bright": ["bright"], "dark": ["dark"], "large": ["large", "big"], "small": ["small", "little"]}
ADJECTIVES |= {"thick": ["thick", "bold"], "thin": ["thin"]}
HELD_OUT = [
    ("bright", "sandal"),
    ("dark", "coat"),
    ("small", "bag"),
    ("large", "seven"),
    ("small", "eight"),
    ("bright", "four"),
    ("thin", "three"),
    ("thick", "six"),
]
"""Combinations of attribute and class that no caption of training mentions."""


@dataclass(frozen=True)
class Caption:
    """One predicate about a picture.

    Args:
        kinds: The classes it is true of, names out of the twenty.
        attribute: The attribute it asks for besides, or None.
        texts: Its wordings.
    """

    kinds: tuple[str, ...]
    attribute: str | None
    texts: tuple[str, ...]


def captions() -> list[Caption]:
    """Every predicate: twenty classes and seven groups, each alone and with each attribute that makes sense of it."""
    things: list[tuple[tuple[str, ...], list[str]]] = [((kind,), _nouns(kind)) for kind in KINDS]
    things += list(GROUPS.items())
    found = []
    for kinds, nouns in things:
        for attribute in [None, *ATTRIBUTES]:
            # Thick and thin are said of strokes.
            if attribute in ("thick", "thin") and kinds[0] in CLASSES["fashion"]:
                continue
            words = ADJECTIVES[attribute] if attribute else [""]
            texts = [text for noun in nouns for word in words for text in wordings(noun, word)]
            found.append(Caption(kinds, attribute, tuple(dict.fromkeys(texts))))
    return found


def class_prompts(name: str) -> list[str]:
    """The ten prompts of zero-shot classification of one data set, `fashion` or `mnist`."""
    return [f"a photo of a {noun}" if name == "fashion" else f"a photo of the digit {noun}" for noun in CLASSES[name]]


def wordings(noun: str, adjective: str = "") -> list[str]:
    """A noun phrase in every template, with and without its article."""
    phrase = f"{adjective} {noun}".strip()
    # "the digit three" takes its adjective inside: "the large digit three".
    if noun.startswith("the "):
        phrase = f"the {adjective} {noun[4:]}".replace("  ", " ")
    plain = noun in WITHOUT_ARTICLE or noun.startswith("the ")
    article = "an" if phrase[0] in "aeiou8" else "a"
    full = phrase if plain else f"{article} {phrase}"
    return [phrase] + [template.format(full) for template in TEMPLATES]


def truth(found: list[Caption], labels: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Of which images each caption is true, and where that is defined.

    Args:
        found: K captions.
        labels: Classes in 0..19, `(B,)`.
        states: The attributes' states, 1, 0 or -1 (undefined), `(B, 6)`.

    Returns:
        Truth `(B, K)` and whether it is defined `(B, K)`, both boolean. A caption whose class is wrong is false
        whatever its attribute.
    """
    member = torch.tensor([[kind in caption.kinds for kind in KINDS] for caption in found])
    column = torch.tensor([ATTRIBUTES.index(c.attribute) if c.attribute else len(ATTRIBUTES) for c in found])
    always = torch.ones(len(states), 1, dtype=states.dtype)
    state = torch.cat([states, always], dim=1)[:, column]
    right = member[:, labels].T
    return right & (state == 1), ~right | (state >= 0)


def _nouns(kind: str) -> list[str]:
    if kind in NOUNS:
        return NOUNS[kind]
    digit = str(CLASSES["mnist"].index(kind))
    return [kind, digit] + [
        f"{before} {d}" for d in (kind, digit) for before in ("the digit", "the number", "handwritten")
    ]
