"""The classes that the shipped weights can draw, and how prompts name them. No torch in here."""

from __future__ import annotations

import json
from pathlib import Path

from orwcfm_core.vocabulary import Vocabulary

__all__ = ["VOCABULARY", "data_of"]

_FASHION = {
    **dict.fromkeys(("t-shirt", "t-shirt/top", "tee shirt", "tee", "tshirt"), (0,)),
    **dict.fromkeys(("trousers", "trouser", "pant"), (1,)),
    **dict.fromkeys(("pullover", "sweater", "jumper"), (2,)),
    **dict.fromkeys(("dress", "gown"), (3,)),
    **dict.fromkeys(("coat", "overcoat"), (4,)),
    "sandal": (5,),
    **dict.fromkeys(("shirt", "button-up shirt"), (6,)),
    **dict.fromkeys(("sneaker", "trainer", "running shoe"), (7,)),
    **dict.fromkeys(("bag", "handbag", "purse"), (8,)),
    **dict.fromkeys(("boot", "ankle boot"), (9,)),
    **dict.fromkeys(("footwear", "shoe"), (5, 7, 9)),
    **dict.fromkeys(("clothing", "clothes", "garment"), (0, 1, 2, 3, 4, 6)),
    **dict.fromkeys(("top", "upper-body garment", "upper-body clothing"), (0, 2, 4, 6)),
}
"""In the singular: the vocabulary forgives a plural."""
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MNIST = {name: (n,) for n, word in enumerate(_WORDS) for name in (word, str(n))} | {
    **dict.fromkeys(("even digit", "even number"), (0, 2, 4, 6, 8)),
    **dict.fromkeys(("odd digit", "odd number"), (1, 3, 5, 7, 9)),
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
        with Path(weights).expanduser().open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            data = json.loads(file.read(min(size, 1_000_000)))["__metadata__"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return data if data in VOCABULARY else None
