"""The names of the classes and of groups of them, and other words for both. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orwcfm_core.vocabulary import Vocabulary

__all__ = ["CLASSES", "GROUPS", "VOCABULARIES", "known_names", "plain_vocabulary"]

CLASSES: Mapping[str, Sequence[str]] = {
    "fashion": ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
    "mnist": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
}
"""Names of the classes by data set, in the order of the labels."""

GROUPS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "fashion": {"footwear": (5, 7, 9), "shoes": (5, 7, 9), "clothing": (0, 1, 2, 3, 4, 6), "tops": (0, 2, 4, 6)},
    "mnist": {"even digits": (0, 2, 4, 6, 8), "odd digits": (1, 3, 5, 7, 9)},
}
"""Names of groups of classes by data set."""

# In the singular: the vocabulary forgives a plural.
_WORDS: Mapping[str, Mapping[str, Sequence[int]]] = {
    "fashion": {
        **{name: (index,) for index, name in enumerate(CLASSES["fashion"])},
        **{word: (0,) for word in ("t-shirt/top", "tee shirt", "tee", "tshirt")},
        **{word: (1,) for word in ("trouser", "pant")},
        **{word: (2,) for word in ("sweater", "jumper")},
        **{word: (3,) for word in ("gown",)},
        **{word: (4,) for word in ("overcoat",)},
        **{word: (6,) for word in ("button-up shirt",)},
        **{word: (7,) for word in ("trainer", "running shoe")},
        **{word: (8,) for word in ("handbag", "purse")},
        **{word: (9,) for word in ("ankle boot",)},
        **{word: GROUPS["fashion"]["footwear"] for word in ("footwear", "shoe")},
        **{word: GROUPS["fashion"]["clothing"] for word in ("clothing", "clothes", "garment")},
        **{word: GROUPS["fashion"]["tops"] for word in ("top", "upper-body garment", "upper-body clothing")},
    },
    "mnist": {
        **{name: (index,) for index, name in enumerate(CLASSES["mnist"])},
        **{str(index): (index,) for index in range(10)},
        **{word: GROUPS["mnist"]["even digits"] for word in ("even digit", "even number")},
        **{word: GROUPS["mnist"]["odd digits"] for word in ("odd digit", "odd number")},
    },
}

VOCABULARIES: Mapping[str, Vocabulary] = {name: Vocabulary(words) for name, words in _WORDS.items()}
"""What a prompt or a label can name, by data set."""


def known_names(data: str) -> str:
    """The classes and groups of a data set, for messages."""
    return ", ".join([*CLASSES[data], *GROUPS[data]])


def plain_vocabulary(names: Sequence[str]) -> Vocabulary:
    """The vocabulary of classes that have nothing but names."""
    return Vocabulary({name: (index,) for index, name in enumerate(names)})
