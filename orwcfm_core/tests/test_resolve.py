"""Reading a configuration: suggestions, precedence, and every mistake at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from orwcfm_core.config import AdaptiveConfig, ExpConfig, TrainConfig
from orwcfm_core.errors import UserError
from orwcfm_core.plugin import BackboneSpec, ComponentConfig, Suggestions, TrainerSpec
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from pydantic import Field

BASE: dict[str, dict[str, Any]] = {"backbone": {"name": "toy"}, "reward": {"name": "shine"}}


def mistakes(tables: dict[str, dict[str, Any]], registry: Registry) -> list[str]:
    merged = {section: BASE.get(section, {}) | tables.get(section, {}) for section in {**BASE, **tables}}
    with pytest.raises(UserError) as caught:
        resolve(merged, registry)
    return str(caught.value).splitlines()


def test_backbone_suggests_what_the_user_left_open(toy_registry: Registry) -> None:
    config = resolve(BASE, toy_registry)
    assert config.prompts == ("a boot",)
    (judge,), (reward,) = config.heldout, config.rewards
    assert judge.name == "judge"
    assert judge.config.labels == (5, 7)
    assert reward.config.strength == 2.0


def test_user_comes_before_suggestion(toy_registry: Registry) -> None:
    tables = BASE | {"reward": {"name": "shine", "strength": "4", "prompt": "a hat"}, "heldout": {"name": "none"}}
    config = resolve(tables, toy_registry)
    assert config.rewards[0].config.strength == 4.0
    assert config.prompts == ("a hat",)
    assert config.heldout == ()


def test_who_only_draws_needs_no_reward(toy_registry: Registry) -> None:
    tables = {"backbone": {"name": "toy"}, "reward": {"name": "gone", "prompt": "a hat"}}
    config = resolve(tables, toy_registry, scored=False)
    assert (config.rewards, config.heldout, config.prompts) == ((), (), ("a hat",))


def test_reward_does_not_judge_itself(toy_registry: Registry) -> None:
    assert resolve(BASE | {"reward": {"name": "judge"}}, toy_registry).heldout == ()


def test_tables_read_back_to_the_same(toy_registry: Registry) -> None:
    tables = BASE | {"sampler": {"name": "dopri5", "rtol": "1e-4"}, "weighting": {"name": "exp", "tau": 2}}
    config = resolve(tables, toy_registry)
    assert isinstance(config.sampler, AdaptiveConfig)
    assert isinstance(config.weighting, ExpConfig)
    assert resolve(config.tables(), toy_registry).tables() == config.tables()


def test_input_is_not_changed(toy_registry: Registry) -> None:
    tables = {"backbone": {"name": "toy"}, "reward": {"name": "shine", "prompt": "x"}}
    resolve(tables, toy_registry)
    assert tables == {"backbone": {"name": "toy"}, "reward": {"name": "shine", "prompt": "x"}}


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"reward": {"strenght": 1}}, "reward.strenght: unknown option of 'shine', did you mean 'strength'?"),
        ({"reward": {"zzz": 1}}, "reward.zzz: unknown option of 'shine', known: strength, labels"),
        ({"sampler": {"steps": 0}}, "sampler.steps: input should be greater than or equal to 1, got 0"),
        ({"sampler": {"name": "dopri5", "steps": 3}}, "sampler.steps: unknown option of 'dopri5', known: "),
        ({"weighting": {"name": "expp"}}, "weighting.name: unknown weighting 'expp', did you mean 'exp'?"),
        ({"weighting": {"tau": "hot"}}, "weighting.tau: input should be a valid number"),
        ({"backbone": {"name": "toi"}}, "backbone.name: unknown backbone 'toi', did you mean 'toy'?"),
        ({"backbone": {"depth": "deep"}}, "backbone.depth: input should be a valid integer"),
        ({"reg": {"alpha": -1}}, "reg.alpha: input should be greater than or equal to 0, got -1"),
        ({"regg": {"alpha": 1}}, "regg: unknown section, did you mean 'reg'?"),
        ({"train": {"samples": 10, "group": 4}}, "train.group: 10 samples (train.samples) are not a multiple of 4"),
        ({"train": {"lrr": 1}}, "train.lrr: unknown option of 'orw-cfm', did you mean 'lr'?"),
        ({"reward": {"prompt": ["a", "b"]}}, "reward.prompt: 2 prompts, but backbone 'toy' is unconditional"),
    ],
)
def test_each_mistake_is_one_line(tables: dict[str, dict[str, Any]], line: str, toy_registry: Registry) -> None:
    found = mistakes(tables, toy_registry)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("suggested", "said"),
    [
        ({"prompts": "a red cat"}, "prompts is not a sequence of texts"),
        ({"heldout": "judge"}, "heldout is not a sequence of names"),
        ({"rewards": {"shine": "x"}}, "rewards is not tables of options"),
        ({"run": {"sampler": "adams"}}, "run is not tables of options"),
        ({"run": {"train": {"sample": 64}}}, "run has train.sample, which is no option"),
        ({"run": {"weighting": {}}}, "run has a section weighting, expected train, sampler"),
        ({"prompts": ("a", "b")}, "2 prompts, and it is unconditional"),
    ],
)
def test_wrong_suggestions_are_the_backbones_mistake(
    suggested: dict[str, Any], said: str, toy_registry: Registry
) -> None:
    plugin = toy_registry.get("backbone", "toy")
    spec = plugin.spec
    assert isinstance(spec, BackboneSpec)
    plugin.__dict__["spec"] = replace(spec, suggest=lambda config, prompts: Suggestions(**suggested))
    with pytest.raises(UserError, match=f"^backbone 'toy' of unknown unknown: suggest returned wrong .*{said}"):
        resolve(BASE, toy_registry)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run": {"reg": "w2"}}, "run is not tables of options"),
        ({"run": {"train": {}}}, "run has a section train, expected weighting, reg, sampler"),
        ({"run": {"weighting": {"taau": 3}}}, "run has weighting.taau, which is no option"),
        ({"config": ComponentConfig}, "config does not extend orwcfm_core.config.TrainConfig"),
        ({"name": "a:b"}, "name 'a:b' has a dot, a colon, an @ or a space"),
        ({}, None),
    ],
)
def test_what_is_wrong_with_a_trainers_spec(given: dict[str, Any], said: str | None) -> None:
    good: dict[str, Any] = {"name": "toy", "summary": "A toy.", "config": TrainConfig, "factory": "x:Y"}
    assert TrainerSpec(**good | given).mistakes() == ([said] if said else [])


def test_a_null_within_an_option_is_a_mistake_before_anything_is_written(toy_registry: Registry) -> None:
    class Bounded(ComponentConfig):
        strength: float = Field(1.0, description="Strength.")
        bounds: list[float | None] = Field([None, 1.0], description="Smallest and largest.")

    plugin = toy_registry.get("reward", "shine")
    plugin.__dict__["spec"] = replace(plugin.spec, config=Bounded)
    assert mistakes({"heldout": {"name": "none"}}, toy_registry) == [
        "reward.bounds: null within it cannot be written to a configuration"
    ]


def test_conditional_backbone_takes_several_prompts(toy_registry: Registry) -> None:
    tables = {"backbone": {"name": "toy", "conditional": "true"}, "reward": {"name": "shine", "prompt": ["a", "b"]}}
    assert resolve(tables, toy_registry).prompts == ("a", "b")


def test_all_mistakes_come_at_once(toy_registry: Registry) -> None:
    tables = {
        "backbone": {"depth": 99},
        "reward": {"strength": 0, "labelz": 1},
        "reg": {"name": "w3"},
        "sampler": {"ema": 1},
        "train": {"rounds": 0},
    }
    found = mistakes(tables, toy_registry)
    options = ["backbone.depth", "reward.strength", "reward.labelz", "reg.name", "sampler.ema", "train.rounds"]
    assert [line.split(":")[0] for line in found] == options
