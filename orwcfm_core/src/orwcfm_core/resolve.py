"""From tables of options to a run's configuration, with every mistake named at once. No torch in here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from orwcfm_core.config import (
    SAMPLERS,
    SECTIONS,
    WEIGHTINGS,
    Choice,
    CombineConfig,
    JudgeChoice,
    JudgeConfig,
    RegChoice,
    RegConfig,
    RewardChoice,
    RunConfig,
    TermConfig,
    TrainConfig,
)
from orwcfm_core.errors import UserError, printable
from orwcfm_core.layers import has_null
from orwcfm_core.plugin import BackboneSpec, ComponentConfig, RewardSpec, Spec, Suggestions, TrainerSpec
from orwcfm_core.registry import Registry, blame
from orwcfm_core.remote import RemotePlugin, is_environment
from orwcfm_core.several import Asked, share_out

__all__ = ["resolve"]

_SHARED = ("prompt", *CombineConfig.model_fields, *TermConfig.model_fields)
"""Options of section `reward` that are no reward's own."""

Options = TypeVar("Options", bound=ComponentConfig)
Term = TypeVar("Term", bound=JudgeConfig)


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
        if not all(map(_is_unicode, given)):
            self.errors.append(f"reward.prompt: expected valid Unicode, got {prompt!r}")
            return ()
        return tuple(given)

    def take(self, section: str, option: str) -> dict[str, Any]:
        """Take out an option, if it is there."""
        table = self.tables.get(section, {})
        return {option: table.pop(option)} if option in table else {}

    def component(self, section: str, kind: str, default: str, below: Mapping[str, Any] | None = None) -> Choice | None:
        """Choose the one plugin of a section."""
        asked = Asked(str(self.pop(section, "name", default)), section, self.tables.get(section, {}))
        return self.choice(asked, kind, below)

    def several(self, section: str, kind: str, default: str, number: str | None = None) -> tuple[Choice, ...]:
        """Choose the plugins of a section that may have several."""
        return tuple(c for asked in self.asked(section, default, number) if (c := self.choice(asked, kind)))

    def absent(self, section: str, default: str, what: str) -> bool:
        """Whether a section that may do without a plugin says `none`."""
        table = self.tables.get(section, {})
        if table.get("name", default) != "none":
            return False
        self.errors += [
            f"{section}.{o}: there is no {what} here; set {section}.name" for o in sorted({*table} - {"name"})
        ]
        return True

    def asked(self, section: str, default: Any, number: str | None) -> list[Asked]:
        names = self.pop(section, "name", default)
        found, errors = share_out(section, self.tables.get(section, {}), names, number)
        self.errors += errors
        return found

    def method(self, default: str) -> Mapping[str, Mapping[str, Any]]:
        """Options of other sections that the trainer is meant for; what is wrong with it is said elsewhere."""
        try:
            spec = self.registry.get("trainer", str(self.tables.get("train", {}).get("name", default))).spec
        except UserError:
            return {}
        return spec.run if isinstance(spec, TrainerSpec) else {}

    def regularizers(self, below: Mapping[str, Any]) -> tuple[RegChoice, ...]:
        """Choose the regularizers; the trainer's suggestions lie under the options of the one that it names."""
        suggested = dict(below)
        name = suggested.pop("name", "w2")
        asked = self.asked("reg", name, "alpha")
        found = []
        for one in asked:
            own = {**(suggested if one.name == name else {}), **one.options}
            given = {option: own.pop(option) for option in RegConfig.model_fields if option in own}
            term = self.options(one.label, RegConfig, one.name, given)
            choice = self.choice(Asked(one.text, one.label, own), "regularizer")
            if choice and term:
                self.errors += _unheld(one.label, choice, term)
                found.append(RegChoice(choice.asked, choice.plugin, choice.config, term))
        return tuple(found)

    def rewards(self, suggested: Suggestions) -> tuple[RewardChoice, ...]:
        """Choose what is trained on."""
        read = self.terms("reward", suggested.reward, "weight", TermConfig, suggested)
        return tuple(RewardChoice(choice.asked, choice.plugin, choice.config, term) for choice, term in read)

    def judges(self, default: str, suggested: Suggestions) -> tuple[JudgeChoice, ...]:
        """Choose what judges and is not trained on; a run can do without, called `none`."""
        if self.absent("heldout", default, "held-out judge"):
            return ()
        read = self.terms("heldout", default, None, JudgeConfig, suggested)
        return tuple(JudgeChoice(choice.asked, choice.plugin, choice.config, term) for choice, term in read)

    def terms(
        self, section: str, default: str, number: str | None, model: type[Term], suggested: Suggestions
    ) -> Iterator[tuple[Choice, Term]]:
        """Choose a section's rewards; of several, the section's own options but `weight` hold for all of them."""
        table = self.tables.setdefault(section, {})
        names = table.get("name", default)
        several = isinstance(names, list | tuple) and len(names) > 1
        common = [option for option in model.model_fields if several and option in table and option != "weight"]
        shared: dict[str, Any] = {option: table.pop(option) for option in common}
        for asked in self.asked(section, default, number):
            own = dict(asked.options)
            given = shared | {option: own.pop(option) for option in model.model_fields if option in own}
            term = self.options(asked.label, model, asked.name, given)
            if term:
                choice = self.reward(Asked(asked.text, asked.label, own), suggested, term)
                yield from [(choice, term)] if choice else []

    def reward(self, asked: Asked, suggested: Suggestions, term: JudgeConfig) -> Choice | None:
        """Choose a reward, here or in an environment of its own, with the backbone's suggestions for it."""
        own = dict(asked.options)
        python: Any = own.pop("python", "")
        if not isinstance(python, str) or not _is_unicode(python + asked.text):
            self.errors.append(
                f"{asked.label}.python: expected the path of an environment, got {python or asked.text!r}"
            )
            return None
        name, environment = located(asked.text)
        environment = python or environment
        below = suggested.rewards.get(asked.name, {})
        if environment:
            remote = RemotePlugin(name, environment, term.timeout or 600.0)
            # The absolute path, so that the run can be resumed from anywhere.
            return self.choice(Asked(f"{name}@{remote.python}", asked.label, own), "reward", below, remote)
        return self.choice(Asked(asked.text, asked.label, own), "reward", below)

    def choice(
        self, asked: Asked, kind: str, below: Mapping[str, Any] | None = None, remote: RemotePlugin | None = None
    ) -> Choice | None:
        """Look a plugin up and read its options; `below` lies under what the user set."""
        try:
            plugin = remote or self.registry.get(kind, asked.text)
            spec = plugin.spec
        except UserError as e:
            self.errors.append(f"{asked.label.partition('.')[0]}.name: {e}")
            return None
        config = self.options(asked.label, spec.config, plugin.name, {**(below or {}), **asked.options})
        return Choice(asked.text, plugin, config) if config else None

    def options(self, label: str, model: type[Options], owner: str, given: Mapping[str, Any]) -> Options | None:
        """Read options; on a mistake, note it and return None."""
        with blame(f"options of '{owner}'", UserError):
            try:
                found = model.model_validate(given)
            except ValidationError as e:
                self.errors += [_explain(label, owner, model, error) for error in e.errors()]
                return None
            holed = [
                name for name, value in found.model_dump(mode="json", exclude_none=True).items() if has_null(value)
            ]
            if not holed:
                return found
            self.errors += [f"{label}.{name}: null within it cannot be written to a configuration" for name in holed]
        return None

    def named(
        self, section: str, table: Mapping[str, type[Any]], default: str, below: Sequence[Mapping[str, Any]]
    ) -> Any:
        """Read a section whose name chooses one of a fixed set; `below` are suggestions, the last the strongest."""
        default = next((s["name"] for s in reversed(below) if "name" in s), default)
        name = str(self.pop(section, "name", default))
        if name not in table:
            self.errors.append(f"{section}.name: unknown {section} '{name}', {_hint(name, table)}")
            return None
        # What fits one of them, such as a number of steps, does not fit another.
        meant = [suggestion for suggestion in below if suggestion.get("name", name) == name]
        fitting = {o: value for s in meant for o, value in s.items() if o in table[name].model_fields}
        given = {**fitting, "name": name, **self.tables.get(section, {})}
        return self.options(section, table[name], name, given)


def resolve(tables: Mapping[str, Mapping[str, Any]], registry: Registry, scored: bool = True) -> RunConfig:
    """Check a configuration and fill in what it leaves open.

    Where the user set nothing, the suggestions of trainer and backbone come before an option's default.

    Args:
        tables: Options by section; strings may stand for numbers, as on a command line.
        registry: Where components are looked up.
        scored: Whether rewards and judges are wanted; who only draws from a model may not have them.

    Raises:
        UserError: Something is wrong; one line for every mistake.
    """
    reader = _Reader(tables, registry)
    reader.errors += [f"{s}: unknown section, {_hint(s, SECTIONS)}" for s in tables if s not in SECTIONS]
    given = reader.prompts()
    backbone = reader.component("backbone", "backbone", "unet")
    suggested, conditional = _suggestions(backbone, given)
    combine = reader.options("reward", CombineConfig, "reward", reader.take("reward", "combine"))
    rewards = reader.rewards(suggested) if scored else ()
    named: tuple[JudgeChoice, ...] | None = None if scored else ()
    if scored and "name" in tables.get("heldout", {}):
        named = reader.judges("none", suggested)
    reads = conditional or any(map(_reads_prompts, [*rewards, *(named or ())]))
    prompts = given or (suggested.prompts if reads else ()) or ("",)
    heldout = reader.judges(_judge(registry, suggested, rewards, prompts), suggested) if named is None else named
    method = reader.method("orw-cfm")
    regs = reader.regularizers(method.get("reg", {}))
    weighting = reader.named("weighting", WEIGHTINGS, "advantage", [method.get("weighting", {})])
    sampler = reader.named("sampler", SAMPLERS, "adams", [suggested.run.get("sampler", {}), method.get("sampler", {})])
    trainer = reader.component("train", "trainer", "orw-cfm", suggested.run.get("train"))
    callbacks = () if reader.absent("callback", "none", "callback") else reader.several("callback", "callback", "none")

    if backbone and len(prompts) > 1 and not conditional:
        reader.errors.append(
            f"reward.prompt: {len(prompts)} prompts, but backbone '{backbone.name}' is unconditional here: it could "
            "not tell which one to draw; give one prompt, or a conditional backbone (backbone.conditional=true)"
        )
    reader.errors += _idle_limits("reward", rewards) + _idle_limits("heldout", heldout)
    reader.errors += _misfits(backbone, rewards, heldout) + _geometry(trainer, len(prompts))
    reader.errors += _uncombinable(combine, rewards) + _short_windows(trainer, rewards)
    if reader.errors:
        raise UserError("\n".join(map(printable, reader.errors)))
    assert backbone
    assert combine
    assert trainer
    return RunConfig(backbone, rewards, combine, heldout, regs, trainer, callbacks, weighting, sampler, prompts)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a file; bytes on a command line that are no UTF-8 cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def located(text: str) -> tuple[str, str]:
    """`NAME@ENVIRONMENT` or `NAME@DIST@ENVIRONMENT` as name and environment, which is empty where there is none."""
    name, _, where = text.partition("@")
    dist, at, rest = where.partition("@")
    if at and not is_environment(dist):
        name, where = f"{name}@{dist}", rest
    return (name, where) if where and is_environment(where) else (text, "")


def _suggestions(backbone: Choice | None, given: tuple[str, ...]) -> tuple[Suggestions, bool]:
    """What the backbone suggests, and whether prompts condition it."""
    spec = backbone.plugin.spec if backbone else None
    if backbone is None or not isinstance(spec, BackboneSpec):
        return Suggestions(), False
    with blame(str(backbone.plugin), UserError):
        suggested = spec.suggest(backbone.config, given)
        if not isinstance(suggested, Suggestions):
            raise UserError(f"suggest returned a {type(suggested).__name__}, expected Suggestions")
        mistakes, conditional = suggested.mistakes(), spec.conditional(backbone.config)
        if len(suggested.prompts) > 1 and not conditional and not given:
            mistakes.append(f"{len(suggested.prompts)} prompts, and it is unconditional")
        if mistakes:
            raise UserError(f"suggest returned wrong Suggestions: {'; '.join(mistakes)}")
        return suggested, conditional


def _unheld(label: str, reg: Choice, term: RegConfig) -> list[str]:
    """Schedules that a regularizer cannot follow, and anchors that it cannot hold to."""
    alpha = getattr(reg.config, "alpha", None)
    if alpha is None and term.anchor != "reference":
        return [f"{label}.anchor: '{reg.name}' has no alpha that could hold to it; leave it out"]
    if term.schedule == "constant":
        return []
    if alpha is None:
        return [f"{label}.schedule: '{reg.name}' has no alpha that could change"]
    if term.schedule == "target" and alpha <= 0:
        return [f"{label}.schedule: target multiplies alpha, which must be more than 0 at the start"]
    return []


def _judge(registry: Registry, suggested: Suggestions, rewards: Sequence[Choice], prompts: tuple[str, ...]) -> str:
    """The first suggested judge that is installed and not trained on; none without a prompt to judge by."""
    if prompts == ("",):
        return "none"
    others = {plugin.name for plugin in registry.plugins if plugin.kind == "reward"} - {r.name for r in rewards}
    return next((judge for judge in suggested.heldout if judge in others), "none")


def _misfits(backbone: Choice | None, rewards: Sequence[Choice], heldout: Sequence[Choice]) -> list[str]:
    """Components that do not fit each other."""
    if backbone is None or _produces_points(backbone.plugin.spec):
        return []
    return [
        f"{section}.name: '{choice.name}' scores points, but backbone '{backbone.name}' produces images"
        for section, choices in (("reward", rewards), ("heldout", heldout))
        for choice in choices
        if _accepts_points(choice.plugin.spec)
    ]


def _uncombinable(combine: CombineConfig | None, rewards: Sequence[RewardChoice]) -> list[str]:
    """Rewards that the way of combining them cannot take."""
    if combine is None or combine.combine == "sum":
        return []
    errors = [
        f"reward.{reward.name}.weight: expected more than 0 with reward.combine={combine.combine}, "
        f"got {reward.term.weight:g}"
        for reward in rewards
        if reward.term.weight <= 0
    ]
    if combine.combine == "product":
        errors += [
            f"reward.combine: a product needs scores of at least 0, and those of '{reward.name}' are not "
            f"({'reward.normalise' if reward.term.normalise != 'none' else 'its range'}); use sum or minimum"
            for reward in rewards
            if reward.term.normalise != "none" or _never_positive(reward.plugin.spec)
        ]
        errors += [
            f"reward.{reward.name}.on_error: a product needs scores of at least 0, got {reward.term.on_error}"
            for reward in rewards
            if reward.term.on_error.startswith("penalise(-")
        ]
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


def _idle_limits(section: str, choices: Sequence[JudgeChoice]) -> list[str]:
    """A time limit where no reward is in an environment of its own."""
    if any(isinstance(choice.plugin, RemotePlugin) for choice in choices):
        return []
    return [
        f"{section}.timeout: only a reward in an environment of its own has one; name it as {choice.name}@PATH"
        for choice in choices
        if choice.term.timeout
    ][:1]


def _short_windows(trainer: Choice | None, rewards: Sequence[RewardChoice]) -> list[str]:
    """Windows that would hold but a part of a round: the last prompts' samples."""
    samples = trainer.config.samples if trainer and isinstance(trainer.config, TrainConfig) else 0
    return [
        f"reward.{reward.name}.window: expected at least a round's samples, {samples}, got {reward.term.window}"
        for reward in rewards
        if reward.term.normalise == "z-score" and reward.term.window < samples
    ]


def _reads_prompts(reward: Choice) -> bool:
    spec = reward.plugin.spec
    with blame(str(reward.plugin), UserError):
        return isinstance(spec, RewardSpec) and spec.reads_prompts and not spec.ignores_prompt(reward.config)


def _never_positive(spec: Spec) -> bool:
    top = spec.value_range[1] if isinstance(spec, RewardSpec) else None
    return top is not None and top <= 0


def _accepts_points(spec: Spec) -> bool:
    return isinstance(spec, RewardSpec) and spec.accepts == "points"


def _produces_points(spec: Spec) -> bool:
    return isinstance(spec, BackboneSpec) and spec.produces == "points"


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"


def _explain(section: str, owner: str, model: type[ComponentConfig], error: Any) -> str:
    """One line for one of pydantic's errors."""
    option = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        # What is shared among regularizers is about their alpha.
        terms = RegConfig.model_fields if "alpha" in model.model_fields else ()
        shared = {"reward": _SHARED, "reg": terms}.get(section.partition(".")[0], ())
        known = [*model.model_fields, *shared]
        hint = _hint(option, known) if known else "which has no options"
        return f"{section}.{option}: unknown option of '{owner}', {hint}"
    message = error["msg"].removeprefix("Value error, ")
    # A regular expression is nothing to show to a user, nor is it enough that something is missing.
    verb = {"string_pattern_mismatch": "expected", "missing": "required"}.get(error["type"])
    if verb and option in model.model_fields and (about := model.model_fields[option].description):
        message = f"{verb}, {about[0].lower()}{about[1:].rstrip('.')}"
    got = "" if error["type"] == "missing" or not option else f", got {error['input']!r}"
    where = f"{section}.{option}" if option else section
    return f"{where}: {message[0].lower()}{message[1:]}{got}"
