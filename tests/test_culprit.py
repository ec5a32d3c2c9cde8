"""Whose code an exception comes from."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from orwcfm_cli.culprit import culprit
from orwcfm_core.config import RunConfig


def module(name: str, source: str, **known: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(known)
    exec(source, made.__dict__)
    return made


SHARED = module("twofold.tools", "def fail(): raise ValueError('boom')")
PARTS = {
    "backbone": module("twofold.backbone", "def call(): fail()", fail=SHARED.fail),
    "reward": module("twofold.reward", "def call(): fail()", fail=SHARED.fail),
    "judge": module("alone.judge.inner", "def call(): raise ValueError('boom')"),
    "the core": module("orwcfm_core.orw_cfm", "def call(): raise ValueError('boom')"),
    "nobody": module("elsewhere", "def call(): raise ValueError('boom')"),
}
FACTORIES = {
    "backbone": "twofold.backbone:B",
    "reward": "twofold.reward:R",
    "judge": "alone.judge:J",
    "trainer": "orwcfm_core.orw_cfm:OrwCfm",
}


class Named:
    def __init__(self, name: str, factory: str) -> None:
        self.name, self.spec = name, SimpleNamespace(factory=factory)

    def __str__(self) -> str:
        return self.name


@pytest.mark.parametrize(
    ("part", "whose"),
    [("backbone", "backbone"), ("reward", "reward"), ("judge", "judge"), ("the core", ""), ("nobody", "")],
)
def test_the_innermost_plugin_is_named_and_what_several_share_says_nothing(part: str, whose: str) -> None:
    choices = [SimpleNamespace(plugin=Named(name, factory)) for name, factory in FACTORIES.items()]
    with pytest.raises(ValueError, match="boom") as caught:
        PARTS[part].call()
    assert culprit(caught.value, cast(RunConfig, SimpleNamespace(choices=choices))) == whose


def test_two_in_one_module_are_told_by_whoever_called_them() -> None:
    both = [SimpleNamespace(plugin=Named(name, "twofold.tools:T")) for name in ("one", "two")]
    with pytest.raises(ValueError, match="boom") as caught:
        PARTS["backbone"].call()
    assert culprit(caught.value, cast(RunConfig, SimpleNamespace(choices=both))) == ""
