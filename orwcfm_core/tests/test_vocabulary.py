"""What a text names, by whole words."""

from __future__ import annotations

import pytest
from orwcfm_core.vocabulary import Vocabulary

WORDS = Vocabulary({"shirt": [6], "t-shirt": [0], "dress": [3], "running shoe": [7], "shoe": [7, 5, 9], "3": [1]})


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("a photo of a shirt", (6,)),
        ("a photo of a T-Shirt.", (0,)),
        ("T shirts", (0,)),
        ("a t-shirt and a shirt", (0, 6)),
        ("two dresses", (3,)),
        ("a shoe", (5, 7, 9)),
        ("a running  shoe", (7,)),
        ("shirtless", ()),
        ("an undershirt", ()),
        ("33 of them", ()),
        ("the digit 3", (1,)),
        ("", ()),
    ],
)
def test_named(text: str, classes: tuple[int, ...]) -> None:
    assert WORDS.named(text) == classes


def test_it_is_a_mapping_that_forgives_case_and_plural() -> None:
    assert WORDS["Shirts"] == (6,)
    assert "running-shoes" in WORDS
    assert "a shirt" not in WORDS
    assert "photo" not in WORDS
    assert len(WORDS) == 6
    assert list(WORDS)[1] == "t shirt"


def test_the_classes_do_not_depend_on_the_order_of_phrases() -> None:
    reordered = Vocabulary(dict(reversed(list(WORDS.items()))))
    assert reordered.named("a t-shirt, running shoe") == WORDS.named("a t-shirt, running shoe") == (0, 7)


def test_an_empty_vocabulary_names_nothing() -> None:
    assert Vocabulary({}).named("a shirt") == ()
