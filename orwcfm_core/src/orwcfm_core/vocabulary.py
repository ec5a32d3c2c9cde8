"""Finds the classes that a text names, by whole words. No torch in here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Vocabulary"]


class Vocabulary(Mapping[str, tuple[int, ...]]):
    """Phrases and the classes that each of them names.

    A phrase is found as whole words, whatever the case, with or without a plural's s or es, and with spaces, hyphens
    or underscores between its words. Where phrases overlap the longest is taken: "t-shirt" does not name the shirt.

    Args:
        phrases: Classes by phrase; phrases in the singular, their words separated by a space or hyphen.
    """

    def __init__(self, phrases: Mapping[str, Iterable[int]]) -> None:
        self._classes = {_key(phrase): tuple(sorted(set(classes))) for phrase, classes in phrases.items()}
        longest_first = sorted(self._classes, key=len, reverse=True)
        choices = "|".join(re.escape(phrase).replace(r"\ ", r"[\s_-]+") for phrase in longest_first)
        # A vocabulary without phrases matches nothing.
        self._pattern = re.compile(rf"(?<!\w)({choices or '(?!)'})(?:e?s)?(?!\w)", re.IGNORECASE)

    def named(self, text: str) -> tuple[int, ...]:
        """All classes that a text names, in ascending order; empty if it names none."""
        found = {index for match in self._pattern.finditer(text) for index in self._classes[_key(match[1])]}
        return tuple(sorted(found))

    def __getitem__(self, phrase: str) -> tuple[int, ...]:
        match = self._pattern.fullmatch(phrase.strip())
        if match is None:
            raise KeyError(phrase)
        return self._classes[_key(match[1])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def _key(phrase: str) -> str:
    return " ".join(re.split(r"[\s_-]+", phrase.strip().lower()))
