"""From tables of options to a run's configuration, with every mistake named at once. No torch in here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from orwcfm_core.config import SAMPLERS, SECTIONS, WEIGHTINGS, Choice, RunConfig, TrainConfig
from orwcfm_core.errors import UserError
from orwcfm_core.plugin import BackboneSpec, ComponentConfig, RewardSpec, Spec, Suggestions
from orwcfm_core.registry import Registry, blame

__all__ = ["resolve"]


class _Reader:
    """Reads sections one by one and collects what is wrong with them."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]], registry: Registry) -> None:
        self.tables = {section: dict(table) for section, table in tables.items()}
        self.registry = registry
        self.errors: list[str] = []

    def pop(self, section: str, option: str, default: Any = None) -> Any:
        return self.tables.setdefault(section, {}).pop(option, default)

    def prompts(self) -> tuple[str, ...]:
        """Take out `reward.prompt`: a string or a list of them."""
        prompt = self.pop("reward", "prompt", ())
        given = (prompt,) if isinstance(prompt, str) else prompt
        if not isinstance(given, list | tuple) or not all(isinstance(p, str) for p in given):
            self.errors.append(f"reward.prompt: expected a string or a list of strings, got {prompt!r}")
            return ()
        if any("\ud800" <= letter <= "\udfff" for p in given for letter in p):
            self.errors.append(f"reward.prompt: expected valid Unicode, got {prompt!r}")
            return ()
        return tuple(given)

    def component(self, section: str, kind: str, default: str, below: Mapping[str, Any] | None = None) -> Choice | None:
        """Choose a plugin by the section's name and read its options; `below` lies under what the user set."""
        try:
            asked = str(self.pop(section, "name", default))
            plugin = self.registry.get(kind, asked)
            spec = plugin.spec
        except UserError as e:
            self.errors.append(f"{section}.name: {e}")
            return None
        config = self.options(section, spec.config, plugin.name, below)
        return Choice(asked, plugin, config) if config else None

    def reward(self, section: str, default: str, suggested: Suggestions) -> Choice | None:
        """Choose a reward, with the backbone's suggestions for it; a run can do without a judge, called `none`."""
        name = str(self.tables.get(section, {}).get("name", default))
        if section == "heldout" and name == "none":
            left = sorted(self.tables.get(section, {}).keys() - {"name"})
            self.errors += [f"heldout.{option}: there is no held-out judge here; set heldout.name" for option in left]
            return None
        return self.component(section, "reward", name, suggested.rewards.get(name.partition("@")[0], {}))

    def options(
        self, section: str, model: type[ComponentConfig], owner: str, below: Mapping[str, Any] | None = None
    ) -> ComponentConfig | None:
        """Read a section's options; on a mistake, note it and return None."""
        given = self.tables.get(section, {})
        with blame(f"options of '{owner}'", UserError):
            try:
                return model.model_validate({**(below or {}), **given})
            except ValidationError as e:
                self.errors += [_explain(section, owner, model, error) for error in e.errors()]
        return None

    def named(self, section: str, table: Mapping[str, type[Any]], default: str) -> Any:
        """Read a section whose name chooses one of a fixed set."""
        name = str(self.pop(section, "name", default))
        if name not in table:
            self.errors.append(f"{section}.name: unknown {section} '{name}', {_hint(name, table)}")
            return None
        return self.options(section, table[name], name, {"name": name})


def resolve(tables: Mapping[str, Mapping[str, Any]], registry: Registry) -> RunConfig:
    """Check a configuration and fill in what it leaves open.

    Where the user set nothing, the backbone's suggestions come before an option's default.

    Args:
        tables: Options by section; strings may stand for numbers, as on a command line.
        registry: Where components are looked up.

    Raises:
        UserError: Something is wrong; one line for every mistake.
    """
    reader = _Reader(tables, registry)
    reader.errors += [f"{s}: unknown section, {_hint(s, SECTIONS)}" for s in tables if s not in SECTIONS]
    given = reader.prompts()
    backbone = reader.component("backbone", "backbone", "unet")
    suggested, conditional = _suggestions(backbone, given)
    reward = reader.reward("reward", "clip-score", suggested)
    prompts = given or (suggested.prompts if conditional or _reads_prompts(reward) else ()) or ("",)
    heldout = reader.reward("heldout", _judge(registry, suggested, reward, prompts), suggested)
    reg = reader.component("reg", "regularizer", "w2")
    weighting = reader.named("weighting", WEIGHTINGS, "advantage")
    sampler = reader.named("sampler", SAMPLERS, "euler")
    trainer = reader.component("train", "trainer", "orw-cfm")

    if backbone and len(prompts) > 1 and not conditional:
        reader.errors.append(
            f"reward.prompt: {len(prompts)} prompts, but backbone '{backbone.name}' is unconditional here: it could "
            "not tell which one to draw; give one prompt, or a conditional backbone (backbone.conditional=true)"
        )
    reader.errors += _misfits(backbone, reward, heldout) + _geometry(trainer, len(prompts))
    if reader.errors:
        raise UserError("\n".join(reader.errors))
    assert backbone
    assert reward
    assert reg
    assert trainer
    return RunConfig(backbone, reward, heldout, reg, trainer, weighting, sampler, prompts)


def _suggestions(backbone: Choice | None, given: tuple[str, ...]) -> tuple[Suggestions, bool]:
    """What the backbone suggests, and whether prompts condition it."""
    spec = backbone.plugin.spec if backbone else None
    if backbone is None or not isinstance(spec, BackboneSpec):
        return Suggestions(), False
    with blame(str(backbone.plugin), UserError):
        return spec.suggest(backbone.config, given), spec.conditional(backbone.config)


def _judge(registry: Registry, suggested: Suggestions, reward: Choice | None, prompts: tuple[str, ...]) -> str:
    """The first suggested judge that is installed and not the reward itself; none without a prompt to judge by."""
    if prompts == ("",):
        return "none"
    others = {plugin.name for plugin in registry.plugins if plugin.kind == "reward"}
    return next((j for j in suggested.heldout if j in others and (reward is None or j != reward.name)), "none")


def _misfits(backbone: Choice | None, reward: Choice | None, heldout: Choice | None) -> list[str]:
    """Components that do not fit each other."""
    errors = []
    for section, choice in (("reward", reward), ("heldout", heldout)):
        if choice and backbone and _accepts_points(choice.plugin.spec) and not _produces_points(backbone.plugin.spec):
            errors.append(
                f"{section}.name: '{choice.name}' scores points, but backbone '{backbone.name}' produces images"
            )
    return errors


def _geometry(trainer: Choice | None, prompts: int) -> list[str]:
    """Mistakes in how a round's samples are shared among prompts."""
    if trainer is None or not isinstance(trainer.config, TrainConfig):
        return []
    samples, group = trainer.config.samples, trainer.config.group
    if group and samples % group:
        return [f"train.group: {samples} samples (train.samples) are not a multiple of {group}"]
    if not group and samples < 2 * prompts:
        return [
            f"train.samples: {samples} samples are fewer than 2 for each of {prompts} prompts, and one alone cannot be "
            "compared; set train.group to draw fewer prompts in a round, or more train.samples"
        ]
    return []


def _reads_prompts(reward: Choice | None) -> bool:
    spec = reward.plugin.spec if reward else None
    return isinstance(spec, RewardSpec) and spec.reads_prompts


def _accepts_points(spec: Spec) -> bool:
    return isinstance(spec, RewardSpec) and spec.accepts == "points"


def _produces_points(spec: Spec) -> bool:
    return isinstance(spec, BackboneSpec) and spec.produces == "points"


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _explain(section: str, owner: str, model: type[ComponentConfig], error: Any) -> str:
    """One line for one of pydantic's errors."""
    option = ".".join(str(part) for part in error["loc"]) or "options"
    if error["type"] == "extra_forbidden":
        known = [*model.model_fields, *(["prompt"] if section == "reward" else [])]
        return f"{section}.{option}: unknown option of '{owner}', {_hint(option, known)}"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "missing" else f", got {error['input']!r}"
    return f"{section}.{option}: {message[0].lower()}{message[1:]}{got}"
