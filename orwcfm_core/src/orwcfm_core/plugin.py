"""What a plugin's light module imports: hook marker, frozen specs and the API number. No torch in here.

A plugin is a distribution with an entry point in one of the groups in `GROUPS`. The entry point's name is what the
user types; its value is a light module with one hook implementation that returns specs:

    @hookimpl
    def orwcfm_rewards():
        return [RewardSpec(name="brightness", summary="Mean of all pixels.", config=Config, factory="my.reward:Reward")]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pluggy
from pydantic import BaseModel, ConfigDict

__all__ = [
    "API",
    "GROUPS",
    "RESERVED",
    "RESERVED_REG",
    "BackboneSpec",
    "CallbackSpec",
    "ComponentConfig",
    "Example",
    "RegularizerSpec",
    "RewardSpec",
    "Spec",
    "Suggestions",
    "TrainerSpec",
    "absolute_path",
    "hookimpl",
    "hookspec",
]

API = 1
"""Number of the contract between core and plugins; the registry accepts this one and the one before."""

GROUPS = {
    "reward": "orwcfm.rewards",
    "backbone": "orwcfm.backbones",
    "regularizer": "orwcfm.regularizers",
    "trainer": "orwcfm.trainers",
    "callback": "orwcfm.callbacks",
}
"""Entry-point group of each kind of component."""

RESERVED = frozenset({"name", "prompt", "combine", "weight", "normalise", "window", "on_error", "python", "timeout"})
"""Options that belong to the run; no component may have one of these names."""

RESERVED_REG = frozenset({"anchor", "ema_alpha", "schedule", "alpha_end", "divergence"})
"""Options that belong to every regularizer; none may have one of its own by such a name."""

hookspec = pluggy.HookspecMarker("orwcfm")
hookimpl = pluggy.HookimplMarker("orwcfm")


class ComponentConfig(BaseModel):
    """Base of every component's options: unknown names are errors, values do not change once read."""

    # Validators are built when a component is configured, not when it is listed.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


def absolute_path(path: str) -> str:
    """A path that leads to the same from any folder, for the validators of options that are paths.

    A run keeps its options; relative ones would fail, or mean another file, where it is resumed from elsewhere.

    Args:
        path: As it was typed; `~` is the home folder.
    """
    return os.path.abspath(os.path.expanduser(path))


@dataclass(frozen=True)
class Suggestions:
    """What a backbone proposes where the user said nothing.

    Args:
        prompts: Prompts of a run that names none, if anything reads them.
        reward: Name of the reward of a run that names none.
        heldout: Names of rewards that can judge a run without training on it, the best first.
        rewards: Options by reward name, used where the user set none.
        run: Options of sections `train` and `sampler`, used where the user set none.
    """

    prompts: tuple[str, ...] = ()
    reward: str = "clip-score"
    heldout: tuple[str, ...] = ()
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    run: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def mistakes(self) -> list[str]:
        """What of this is not as it must be."""
        found = {
            "prompts is not a sequence of texts": not _are_lines(self.prompts),
            "reward is not a name": not _is_line(self.reward),
            "heldout is not a sequence of names": not _are_lines(self.heldout),
            "rewards is not tables of options": not _are_tables(self.rewards),
        }
        return [text for text, wrong in found.items() if wrong] + _misproposed(self.run, ("train", "sampler"))


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a component is tried on where nobody said: by `orwcfm plugins check` and the conformance tests.

    Args:
        options: Options that make a small instance, which needs no download.
        shape: Shape of one sample that a reward scores: `(C, H, W)` for images, `(d,)` for points.
        prompts: Two prompts that mean different things to it.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 32, 32)
    prompts: tuple[str, str] = ("a red boat", "a green tree")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every plugin says of a component before it is built.

    Args:
        name: Name on the command line, equal to the entry point's.
        summary: One line.
        config: Pydantic model of the options, every field described.
        factory: `"module:Class"`; imported, and called with the config, when the component is built.
        references: Papers or pages it is built from.
        api: Number of the contract it was written for.
        example: What it is tried on.
    """

    name: str
    summary: str
    config: type[ComponentConfig]
    factory: str
    references: Sequence[str] = ()
    api: int = API
    example: Example = Example()

    def mistakes(self) -> list[str]:
        """What of this is not as it must be, for a spec is written by hand and checked by nobody else."""
        config = self.config
        found = {
            f"name '{self.name}' belongs to the run": self.name in RESERVED,
            f"name '{self.name}' has a dot, a colon, an @ or a space": bool(set(self.name) & set(".:@ ")),
            "summary is not one line of text": not _is_line(self.summary),
            "config is not a ComponentConfig": not (isinstance(config, type) and issubclass(config, ComponentConfig)),
            "factory is not 'module:Class'": not _is_line(self.factory) or not all(self.factory.partition(":")),
            "references is not a sequence of texts": not _are_lines(self.references),
            "api is not a number": not isinstance(self.api, int),
            "example is not an Example": not isinstance(self.example, Example),
        }
        return [text for text, wrong in found.items() if wrong]


def _is_line(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and len(text.splitlines()) == 1


def _are_lines(texts: Any) -> bool:
    return isinstance(texts, Sequence) and not isinstance(texts, str) and all(map(_is_line, texts))


def _are_tables(tables: Any) -> bool:
    return isinstance(tables, Mapping) and all(isinstance(table, Mapping) for table in tables.values())


def _misproposed(run: Any, sections: Sequence[str]) -> list[str]:
    """What is wrong with options that are proposed for sections of a run."""
    if not _are_tables(run):
        return ["run is not tables of options"]
    # Its module imports this one.
    from orwcfm_core.config import SAMPLERS, WEIGHTINGS, TrainConfig

    models: dict[str, Iterable[type[BaseModel]]] = {
        "train": [TrainConfig],
        "sampler": SAMPLERS.values(),
        "weighting": WEIGHTINGS.values(),
    }
    lines = [f"run has a section {section}, expected {', '.join(sections)}" for section in run.keys() - set(sections)]
    for section in run.keys() & models.keys() & set(sections):
        known = {"name", *(option for model in models[section] for option in model.model_fields)}
        lines += [f"run has {section}.{option}, which is no option" for option in sorted(run[section].keys() - known)]
    return lines


@dataclass(frozen=True, kw_only=True)
class RewardSpec(Spec):
    """A reward.

    Args:
        accepts: `images` in [0, 1], or `points`: the backbone's samples as they are.
        value_range: Smallest and largest score, None where unbounded.
        probability: The score is the probability that the sample satisfies its prompt; from one half on it does.
        deterministic: The same images always score the same.
        differentiable: Gradients reach the images.
        reads_prompts: The score depends on the prompt.
        ignores_prompt: Called with the config; says that with these options it does not.
    """

    accepts: str = "images"
    value_range: tuple[float | None, float | None] = (None, None)
    probability: bool = False
    deterministic: bool = True
    differentiable: bool = False
    reads_prompts: bool = True
    ignores_prompt: Callable[[Any], bool] = lambda config: False

    def mistakes(self) -> list[str]:
        found = super().mistakes()
        if self.accepts not in ("images", "points"):
            found.append(f"accepts is {self.accepts!r}, expected 'images' or 'points'")
        pair = self.value_range if isinstance(self.value_range, tuple) else ()
        if len(pair) != 2 or not all(end is None or isinstance(end, int | float) for end in pair):
            found.append("value_range is not a pair of numbers or None")
        return found + [f"{name} cannot be called" for name in ("ignores_prompt",) if not callable(getattr(self, name))]


@dataclass(frozen=True, kw_only=True)
class BackboneSpec(Spec):
    """A generative model to fine-tune.

    Args:
        produces: `images` or `points`.
        conditional: Called with the config; says whether prompts condition the model. Independently of this,
            prompts always reach the reward.
        suggest: Called with the config and the user's prompts; must stay light (no torch).
    """

    produces: str = "images"
    conditional: Callable[[Any], bool] = lambda config: False
    suggest: Callable[[Any, tuple[str, ...]], Suggestions] = lambda config, prompts: Suggestions()

    def mistakes(self) -> list[str]:
        found = super().mistakes()
        if self.produces not in ("images", "points"):
            found.append(f"produces is {self.produces!r}, expected 'images' or 'points'")
        return found + [
            f"{name} cannot be called" for name in ("conditional", "suggest") if not callable(getattr(self, name))
        ]


@dataclass(frozen=True, kw_only=True)
class RegularizerSpec(Spec):
    """A penalty that keeps the policy near the reference; its config has `alpha`, the strength, if it has any.

    Args:
        non_negative: The penalty is never below 0.
    """

    non_negative: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainerSpec(Spec):
    """A training method; its config extends `orwcfm_core.config.TrainConfig`.

    Args:
        run: Options of sections `weighting`, `reg` and `sampler` that the method is meant for, used where the user
            set none; another `name` set by the user takes the section's others along.
    """

    run: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def mistakes(self) -> list[str]:
        # Its module imports this one.
        from orwcfm_core.config import TrainConfig

        found = super().mistakes() + _misproposed(self.run, ("weighting", "reg", "sampler"))
        extends = isinstance(self.config, type) and issubclass(self.config, TrainConfig)
        return found if extends else [*found, "config does not extend orwcfm_core.config.TrainConfig"]


@dataclass(frozen=True, kw_only=True)
class CallbackSpec(Spec):
    """Something that is told of a run's events; its factory builds an object with hooks of `orwcfm_core.events`."""


class Hooks:
    """The hooks, one per kind; each returns a list of specs."""

    @hookspec
    def orwcfm_rewards(self) -> list[RewardSpec]:
        """Rewards that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def orwcfm_backbones(self) -> list[BackboneSpec]:
        """Backbones that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def orwcfm_regularizers(self) -> list[RegularizerSpec]:
        """Regularizers that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def orwcfm_trainers(self) -> list[TrainerSpec]:
        """Trainers that this plugin offers."""
        raise NotImplementedError

    @hookspec
    def orwcfm_callbacks(self) -> list[CallbackSpec]:
        """Callbacks that this plugin offers."""
        raise NotImplementedError
