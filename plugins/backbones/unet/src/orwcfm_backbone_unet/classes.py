"""The classes that the shipped weights can draw, and how prompts name them. No torch in here."""

from __future__ import annotations

import json
from pathlib import Path

from orwcfm_core.vocabulary import Vocabulary

__all__ = ["VOCABULARY", "data_of"]

_FASHION = {
    "t-shirt": (0,),
    "trousers": (1,),
    "pullover": (2,),
    "dress": (3,),
    "coat": (4,),
    "sandal": (5,),
    "shirt": (6,),
    "sneaker": (7,),
    "bag": (8,),
    "boot": (9,),
    "footwear": (5, 7, 9),
    "shoe": (5, 7, 9),
    "clothing": (0, 1, 2, 3, 4, 6),
}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MNIST = {name: (n,) for n, word in enumerate(_WORDS) for name in (word, str(n))} | {
    "even digit": (0, 2, 4, 6, 8),
    "odd digit": (1, 3, 5, 7, 9),
}

VOCABULARY = {"fashion": Vocabulary(_FASHION), "mnist": Vocabulary(_MNIST)}
"""By data set: which classes a text names."""


def data_of(weights: str) -> str | None:
    """The data set that weights were trained on, `fashion` or `mnist`; None if unknown.

    Args:
        weights: One of these names, or the path of a .safetensors file whose header says `data`.
    """
    if weights in VOCABULARY:
        return weights
    try:
        with Path(weights).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            data = json.loads(file.read(min(size, 1_000_000)))["__metadata__"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return data if data in VOCABULARY else None
