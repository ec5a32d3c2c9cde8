"""The kit's faces: the iterator, the classes, the checks that every kind shares, and the stand-ins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from orwcfm_core.errors import UserError
from orwcfm_core.plugin import GROUPS
from orwcfm_core.registry import Registry
from orwcfm_core.testing import (
    CHECKS,
    BackboneTests,
    CallbackTests,
    FakeDistribution,
    PluginTests,
    RegularizerTests,
    Result,
    RewardTests,
    TrainerTests,
    check,
    contract,
    isolated_registry,
)

LIGHT = """
from orwcfm_core.plugin import ComponentConfig, Example, RewardSpec, hookimpl
from pydantic import Field

class Config(ComponentConfig):
    threshold: float = Field(0.5, ge=0, le=1, description="A pixel above this is bright.")

@hookimpl
def orwcfm_rewards():
    return [RewardSpec(name="bright", summary="Share of bright pixels.", config=Config,
        factory="bright_reward:Bright", value_range=(0.0, 1.0), reads_prompts=False)]
"""
HEAVY = """
from orwcfm_core.reward import Reward, Scores

class Bright(Reward):
    def __init__(self, config):
        self.threshold = config.threshold

    def score(self, images, prompts):
        valid = images.flatten(1).isfinite().all(1)
        return Scores((images > self.threshold).float().flatten(1).mean(1), valid)
"""

Bright = Callable[..., FakeDistribution]


@pytest.fixture
def bright(tmp_path: Path) -> Bright:
    """Writes the distribution of a reward; a text in it may be replaced."""

    def write(old: str = "", new: str = "", name: str = "orwcfm-reward-bright", **about: Any) -> FakeDistribution:
        light, heavy = (source.replace(old, new) if old else source for source in (LIGHT, HEAVY))
        assert not old or (light, heavy) != (LIGHT, HEAVY)
        modules = {"bright_plugin.py": light, "bright_reward.py": heavy}
        return FakeDistribution(tmp_path / name, name, {"reward": {"bright": "bright_plugin"}}, modules, **about)

    return write


def results(distribution: FakeDistribution, options: dict[str, Any] | None = None) -> dict[str, Result]:
    with distribution:
        found = list(check("reward", "bright", options, isolated_registry(distribution)))
    assert [result.name for result in found] == [function.__name__ for function in CHECKS["reward"]]
    assert all(bool(result.message) == (result.status != "passed") for result in found)
    assert not any("\n" in result.message for result in found)
    return {result.name: result for result in found}


def test_a_good_plugin_passes_all(bright: Bright) -> None:
    found = results(bright())
    assert {name for name, result in found.items() if result.status != "passed"} == {"features", "empty_prompt"}
    assert found["features"] == Result("features", "skipped", "has no features")


WRONG = {
    "heavy": ("from pydantic", "import torch\nfrom pydantic", "light_module", "imports numpy, torch"),
    "no summary": ('"Share of bright pixels."', '""', "loads", "summary is not one line of text"),
    "two lines": ("Share of bright", "Share\\nof bright", "loads", "summary is not one line of text"),
    "no description": (', description="A pixel above this is bright."', "", "described", "threshold: give Field"),
    "reserved": (
        "    threshold: float",
        '    weight: float = Field(1.0, description="Mine.")\n    threshold: float',
        "option_names",
        "the option names weight belong to the run",
    ),
    "not frozen": (
        "    threshold: float",
        '    model_config = {"frozen": False}\n    threshold: float',
        "frozen",
        "derive the config from ComponentConfig",
    ),
    "wrong default": ("Field(0.5,", "Field(7,", "round_trip", "got 7.0: it is the option's own value"),
    "equal prompts": (
        "reads_prompts=False",
        'reads_prompts=False, example=Example(prompts=("a", "a"))',
        "example",
        "two different prompts",
    ),
    "no shape": ("reads_prompts=False", "reads_prompts=False, example=Example(shape=())", "example", "sizes above 0"),
    "wrong options": (
        "reads_prompts=False",
        'reads_prompts=False, example=Example(options={"threshold": 3})',
        "example",
        "threshold: Input should be less than or equal to 1, got 3",
    ),
    "no factory": ("bright_reward:Bright", "bright_reward:Brigth", "builds", "has no attribute 'Brigth'"),
    "another class": ("(Reward)", "", "builds", "built a Bright, expected a Reward"),
    "no spec": ('name="bright"', 'name="dark"', "loads", "no RewardSpec of this name (found: 'dark')"),
    "syntax": ("class Config", "klass Config", "loads", "SyntaxError"),
    "exit": ("class Config", "raise SystemExit(3)\nclass Config", "loads", "SystemExit: 3"),
    "scoring": ("valid = images", "valid = 1 / 0 * images", "scores", "raised: ZeroDivisionError: division by zero"),
    "skip in scoring": (
        "valid = images",
        "import unittest; raise unittest.SkipTest('no model')\n        valid = images",
        "scores",
        "raised: SkipTest: no model",
    ),
    "exit in scoring": ("valid = images", "exit()\n        valid = images", "scores", "raised: SystemExit"),
}


@pytest.mark.parametrize(("old", "new", "fails", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_plugin_fails_its_check(old: str, new: str, fails: str, message: str, bright: Bright) -> None:
    found = results(bright(old, new))
    failed = [name for name, result in found.items() if result.status == "failed"]
    assert failed[0] == fails
    assert message in found[fails].message
    after = list(found)[list(found).index(fails) + 1 :]
    reason = {"loads": "could not be loaded", "example": "has no valid options", "builds": "could not be built"}
    if fails in reason:
        assert {(found[name].status, found[name].message) for name in after} == {("skipped", reason[fails])}
    elif found["builds"].status == "passed" and fails != "scores":
        assert failed == [fails]


def test_options_are_those_that_are_given(bright: Bright) -> None:
    assert results(bright(), {"threshold": 0.1})["builds"].status == "passed"
    assert "got 2" in results(bright(), {"threshold": 2})["example"].message
    assert "Extra inputs" in results(bright(), {"treshold": 1})["example"].message


def test_defaults_are_checked_where_other_options_are_given(bright: Bright) -> None:
    found = results(bright("Field(0.5,", "Field(7,"), {"threshold": 0.2})
    assert [name for name, result in found.items() if result.status == "failed"] == ["round_trip"]


def test_an_unknown_name_is_the_callers_mistake() -> None:
    with pytest.raises(UserError, match="unknown reward 'brihgt'"):
        check("reward", "brihgt")


def test_every_kind_has_checks_with_names_of_their_own() -> None:
    assert CHECKS.keys() == GROUPS.keys()
    for functions in CHECKS.values():
        names = [function.__name__ for function in functions]
        assert len(names) == len(set(names))
        assert functions[: len(contract.CHECKS)] == contract.CHECKS
        assert all(function.__doc__ for function in functions)


BASES = [RewardTests, BackboneTests, RegularizerTests, TrainerTests, CallbackTests]


@pytest.mark.parametrize("base", BASES)
def test_the_classes_have_a_test_for_each_check(base: type[PluginTests]) -> None:
    tests = [name for name in dir(base) if name.startswith("test")]
    assert sorted(tests) == sorted(f"test_{function.__name__}" for function in CHECKS[base.kind])


def test_a_class_of_five_lines_tests_a_plugin(bright: Bright) -> None:
    with bright("value_range=(0.0, 1.0)", "value_range=(0.0, 0.2)") as distribution:

        class TestBright(RewardTests):
            name = "bright"
            options = {"threshold": 0.25}
            registry = isolated_registry(distribution)

        TestBright().test_scores()
        with pytest.raises(AssertionError, match="the spec declares"):
            TestBright().test_value_range()
        with pytest.raises(SkipTest):
            TestBright().test_features()
        assert TestBright().subject() is TestBright().subject()
        assert TestBright().subject().component.threshold == 0.25


def test_a_component_cannot_skip_its_tests(bright: Bright) -> None:
    with bright(
        "valid = images", "import unittest; raise unittest.SkipTest('no model')\n        valid = images"
    ) as dist:

        class TestBright(RewardTests):
            name = "bright"
            registry = isolated_registry(dist)

        with pytest.raises(AssertionError, match="raised: SkipTest: no model"):
            TestBright().test_scores()


def test_a_name_that_belongs_to_the_run_is_refused(tmp_path: Path) -> None:
    light = LIGHT.replace('name="bright"', 'name="combine"')
    modules = {"bright_plugin.py": light, "bright_reward.py": HEAVY}
    with FakeDistribution(tmp_path, "mine", {"reward": {"combine": "bright_plugin"}}, modules) as distribution:
        first, *rest = check("reward", "combine", registry=isolated_registry(distribution))
    assert (first.name, first.status) == ("loads", "failed")
    assert "name 'combine' belongs to the run" in first.message
    assert {result.status for result in rest} == {"skipped"}


def test_pytest_is_not_needed() -> None:
    code = "import orwcfm_core.testing, sys; print('pytest' in sys.modules or '_pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_fake_distribution_is_found_by_a_child_process(bright: Bright) -> None:
    distribution = bright(version="2.5")
    code = "from orwcfm_core.registry import Registry as R; p = R().get('reward', 'bright'); print(p, p.spec.factory)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **distribution.env()}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "reward 'bright' of orwcfm-reward-bright 2.5 bright_reward:Bright"


def test_a_fake_distribution_leaves_nothing_behind(bright: Bright) -> None:
    path, modules = list(sys.path), set(sys.modules)
    with bright() as distribution:
        plugin = isolated_registry(distribution).get("reward", "bright")
        plugin.check()
        assert "bright_reward" in sys.modules
    assert sys.path == path
    assert not {name for name in set(sys.modules) - modules if name.startswith("bright")}


def test_a_fake_distribution_has_requirements(bright: Bright) -> None:
    with bright(requires=["orwcfm-core>=99"]) as distribution:
        found = next(check("reward", "bright", registry=isolated_registry(distribution)))
    assert found.status == "failed"
    assert "needs orwcfm-core>=99" in found.message


def test_an_isolated_registry_sees_its_own_and_the_core(bright: Bright, tmp_path: Path) -> None:
    first, second = bright(), bright(name="other")
    registry = isolated_registry(first, second.folder)
    assert {plugin.dist for plugin in registry.plugins} == {"orwcfm-reward-bright", "other", "orwcfm-core"}
    assert isolated_registry().get("trainer", "orw-cfm").name == "orw-cfm"
    with pytest.raises(UserError, match=r"several distributions"):
        registry.get("reward", "bright")
    assert isinstance(registry, Registry)
