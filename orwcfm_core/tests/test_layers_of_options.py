"""A command line over a file: what wins, and what goes with a component that is replaced."""

from __future__ import annotations

from typing import Any

import pytest
from orwcfm_core.errors import UserError
from orwcfm_core.layers import layered

ONE = {"reg": {"name": "w2", "alpha": 0.1}}
TWO = {"reward": {"name": ["a", "b"], "prompt": ["x"], "a": {"weight": 1, "m": 2}, "b": {"weight": 3}}}


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        (ONE, {"reg": {"alpha": "0.5"}}, {"name": "w2", "w2": {"alpha": "0.5"}}),
        (ONE, {"reg": {"name": "w2:0.5"}}, {"name": "w2", "w2": {"alpha": "0.5"}}),
        (ONE, {"reg": {"name": "kl"}}, {"name": "kl"}),
        (ONE, {"reg": {"name": "kl", "alpha": "2"}}, {"name": "kl", "kl": {"alpha": "2"}}),
        (ONE, {"reg": {"name": ["kl:1", "w2"]}}, {"name": ["kl", "w2"], "w2": {"alpha": 0.1}, "kl": {"alpha": "1"}}),
        ({}, {"reg": {"alpha": "2"}}, {"alpha": "2"}),
        ({}, {"reg": {"name": ["kl", "w2"], "alpha": "2"}}, {"name": ["kl", "w2"], "alpha": "2"}),
        ({"reg": {"alpha": 1}}, {"reg": {"name": "kl"}}, {"name": "kl", "kl": {"alpha": 1}}),
        (TWO, {"reward": {"name": "a"}}, {"name": "a", "prompt": ["x"], "a": {"weight": 1, "m": 2}}),
        (TWO, {"reward": {"name": ["a:7", "c"]}}, {"name": ["a", "c"], "prompt": ["x"], "a": {"weight": "7", "m": 2}}),
        (
            {"reward": {"name": ["a", "b"], "prompt": "x", "combine": "product", "window": 9}},
            {"reward": {"name": "c"}},
            {"name": "c", "prompt": "x"},
        ),
        (
            {"reward": {"name": ["a", "b"], "combine": "product"}},
            {"reward": {"name": ["b", "c"]}},
            {"name": ["b", "c"], "combine": "product"},
        ),
        (TWO, {"reward": {"prompt": "y"}}, TWO["reward"] | {"prompt": "y"}),
        ({}, {"reward": {"name": "a@/x/y:0.5"}}, {"name": "a@/x/y", "a": {"weight": "0.5"}}),
        ({}, {"reward": {"name": 3}}, {"name": 3}),
        ({"callback": {"name": "a", "x": 1}}, {"callback": {"name": "none"}}, {"name": "none"}),
        ({"backbone": {"name": "unet", "w": 1}}, {"backbone": {"name": "gmm"}}, {"name": "gmm"}),
        ({"sampler": {"name": "euler", "steps": 7}}, {"sampler": {"name": "heun"}}, {"steps": 7, "name": "heun"}),
        ({"sampler": {"name": "euler", "steps": 7}}, {"sampler": {"name": "dopri5"}}, {"name": "dopri5"}),
        ({"train": {"name": "a", "rounds": 7, "own": 1}}, {"train": {"name": "b"}}, {"name": "b", "rounds": 7}),
    ],
)
def test_layers(file: dict[str, Any], line: dict[str, Any], expected: dict[str, Any]) -> None:
    section = next(iter(line))
    assert layered(file, line)[section] == expected


def test_later_layers_of_the_line_win() -> None:
    assert layered({}, {"reg": {"name": "w2:1"}}, {"reg": {"alpha": "2"}})["reg"]["w2"] == {"alpha": "2"}


@pytest.mark.parametrize(
    "layer",
    [
        {"name": "w2:1", "alpha": "2"},
        {"name": "w2", "alpha": 1, "w2": {"alpha": 2}},
        {"name": "w2:1", "w2": {"alpha": 2}},
    ],
)
def test_twice_in_one_layer_is_a_mistake(layer: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"reg\.alpha: is set twice"):
        layered({}, {"reg": layer})


def test_colons_in_paths_stay(tmp_path: Any) -> None:
    (tmp_path / "en v:1").mkdir()
    name = f"a@{tmp_path}/en v:1"
    assert layered({}, {"reward": {"name": name}})["reward"]["name"] == name
    assert layered({}, {"reward": {"name": f"{name}:0.5"}})["reward"]["a"] == {"weight": "0.5"}


def test_inputs_are_not_changed() -> None:
    file = {"reward": {"name": "a", "a": {"x": 1}}}
    layered(file, {"reward": {"a": {"x": 2}}})
    assert file == {"reward": {"name": "a", "a": {"x": 1}}}
