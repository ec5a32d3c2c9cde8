"""Measures a run's model on samples of its own: scores, diversity, distances, each with a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from orwcfm_core.config import SECTIONS, JudgeChoice, JudgeConfig, RunConfig
from orwcfm_core.errors import RunError, UserError
from orwcfm_core.evaluation import SATISFIED
from orwcfm_core.measures import (
    Estimate,
    bootstrap,
    distance_estimate,
    frechet_distance,
    mean_estimate,
    path_divergence,
    share_estimate,
    vendi_estimate,
)
from orwcfm_core.memory import fitting
from orwcfm_core.metrics import pixel_features
from orwcfm_core.registry import Registry, blame
from orwcfm_core.remote import is_environment
from orwcfm_core.resolve import resolve
from orwcfm_core.reward import Judge
from orwcfm_core.several import parted
from torch import Tensor

from orwcfm_cli.assemble import build_judge
from orwcfm_cli.culprit import guarded
from orwcfm_cli.display import Display
from orwcfm_cli.folder import RunFolder
from orwcfm_cli.options import Tables, merge, read_toml
from orwcfm_cli.real_images import find_images, read_images
from orwcfm_cli.trained import Trained

__all__ = ["Request", "evaluate_run"]

BATCH = 256
"""Samples that are drawn and scored at once; part of the definition, for noise is drawn batch by batch."""
RESAMPLES = 100
"""Of the bootstrap."""
SPACES = ("pixels", "samples")
"""Feature spaces that are no reward's."""
UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Request:
    """What `orwcfm eval` was asked for; see its options."""

    run: Path
    reward: tuple[str, ...]
    settings: tuple[str, ...]
    samples: int
    feature_space: str | None
    normalised: bool
    real: Path | None
    reference: bool
    seed: int
    checkpoint: str


@dataclass
class Measured:
    """What was seen of one model's samples: which are numbers, scores and validity by reward, features, divergence."""

    finite: list[Tensor] = field(default_factory=list)
    scores: dict[str, list[Tensor]] = field(default_factory=dict)
    valid: dict[str, list[Tensor]] = field(default_factory=dict)
    features: list[Tensor] = field(default_factory=list)
    divergence: list[Tensor] = field(default_factory=list)


class Evaluator:
    """A model, the rewards that score it and the space that its samples are compared in.

    Args:
        model: The model.
        judges: What scores.
        space: The reward whose features count; else one of SPACES.
        prompts: At least one.
    """

    def __init__(self, model: Trained, judges: list[Judge], space: Judge | str, prompts: tuple[str, ...]) -> None:
        self.model = model
        self.judges = judges
        self.space = space
        self.prompts = prompts
        for judge in (*judges, *([space] if isinstance(space, Judge) else [])):
            judge.reward.to(model.device)

    @property
    def space_name(self) -> str:
        """The feature space's name."""
        return self.space.name if isinstance(self.space, Judge) else self.space

    def noise(self, samples: int, seed: int) -> Iterator[tuple[int, Tensor]]:
        """Batches of noise, each with the number of its first sample."""
        generator = torch.Generator(self.model.device).manual_seed(seed)
        for start in range(0, samples, BATCH):
            shape = (min(BATCH, samples - start), *self.model.backbone.sample_shape)
            yield start, torch.randn(shape, generator=generator, device=self.model.device)

    @torch.no_grad()
    def look(self, measured: Measured, start: int, noise: Tensor, reference: bool) -> None:
        """Sample from some noise and note what comes out."""
        prompts = [self.prompts[i % len(self.prompts)] for i in range(start, start + len(noise))]
        drawn = self.model.draw(reference, noise, prompts)
        # As in a round: what is not a number is no sample.
        finite = drawn.flatten(1).isfinite().all(1).cpu()
        x_1 = drawn.nan_to_num(0.0, 0.0, 0.0)
        measured.finite.append(finite)
        images = self.model.backbone.to_images(x_1)
        for judge in self.judges:
            scores, valid = judge.score(x_1, images, prompts)
            measured.scores.setdefault(judge.name, []).append(scores.cpu())
            measured.valid.setdefault(judge.name, []).append(valid.cpu() & finite)
        measured.features.append(self.features(x_1, images))
        if not reference:
            measured.divergence.append(self._divergence(noise, prompts))

    @torch.no_grad()
    def features(self, x_1: Tensor, images: Tensor) -> Tensor:
        """What distances are measured in, `(B, D)`."""
        if not isinstance(self.space, Judge):
            return (pixel_features(images) if self.space == "pixels" else x_1.flatten(1)).cpu().double()
        with blame(f"features of reward '{self.space.name}'", RunError):
            found = self.space.features(x_1, images)
        if found is None:
            raise UserError(f"--feature-space {self.space.name}: it has no features; use another, or pixels")
        return found.cpu().double()

    def _divergence(self, noise: Tensor, prompts: list[str]) -> Tensor:
        backbone = self.model.backbone

        def attempt(size: int) -> Tensor:
            parts = []
            for i in range(0, len(noise), size):
                condition = backbone.encode(prompts[i : i + size])
                parts.append(path_divergence(backbone.policy(), backbone.reference(), noise[i : i + size], condition))
            return torch.cat(parts)

        with self.model.autocast():
            return fitting(attempt, self.model.config.train.micro_batch)[0]


def evaluate_run(request: Request) -> dict[str, Any]:
    """Measure.

    Returns:
        The request's facts, `names` of measures, and by sampled model (`policy`, `reference`, their `difference`, and
        `real` images) a value and interval for each measure.

    Raises:
        UserError: Something that was asked for is not there.
    """
    folder = RunFolder.open(request.run)
    config = folder.read_config()
    choices = _choose(folder, config, request)
    images = find_images(request.real) if request.real else []
    with guarded(choices, "--samples"):
        return _evaluated(folder, config, choices, images, request)


def _evaluated(
    folder: RunFolder, config: RunConfig, choices: RunConfig, images: list[Path], request: Request
) -> dict[str, Any]:
    model = Trained.load(folder, config, request.checkpoint)
    asked, judges = _judges(config, choices, request)
    evaluator = Evaluator(model, asked, _space(judges, config, request), choices.prompts)
    measured = {"policy": Measured()} | ({"reference": Measured()} if request.reference else {})
    with Display(request.samples) as display:
        for start, noise in evaluator.noise(request.samples, request.seed):
            for name, into in measured.items():
                evaluator.look(into, start, noise, reference=name == "reference")
            display.step(start + len(noise), "sampling", f"{start + len(noise)}/{request.samples} samples")
        real = _real_features(evaluator, images)
        found = _estimates(evaluator, measured, real, request, display)
    return {
        **_facts(request, evaluator),
        "features": measured["policy"].features[0].shape[1],
        "names": _names(evaluator, request),
        "not_finite": int((~torch.cat(measured["policy"].finite)).sum()),
        "invalid": {name: int((~torch.cat(valid)).sum()) for name, valid in measured["policy"].valid.items()},
        **{name: {key: _plain(e) for key, e in estimates.items()} for name, estimates in found.items()},
    }


def _choose(folder: RunFolder, config: RunConfig, request: Request) -> RunConfig:
    """The run's configuration with other rewards: all that score or lend their features, with what the run set."""
    weighted = [name for name in request.reward if parted(name)[1] is not None]
    if weighted:
        raise UserError(f"--reward {weighted[0]}: expected a name without a weight; each reward is measured by itself")
    known = {choice.name: choice for choice in (*config.heldout, *config.rewards)}
    own = [choice.name for choice in (*config.rewards, *config.heldout)]
    names = list(dict.fromkeys(request.reward or own))
    spaces = own if request.feature_space is None else [request.feature_space]
    bare = [name.partition("@")[0] for name in names]
    for name in spaces:
        if name not in (*SPACES, *bare, *own) and not is_environment(name.partition("@")[2]):
            _known_space(name)
    names += [name for name in dict.fromkeys(spaces) if name not in (*SPACES, *bare)]
    changes = merge(None, request.settings, {})
    strangers = [f"{section}.{option}" for section, table in changes.items() if section != "reward" for option in table]
    if strangers:
        raise UserError(f"--set {', '.join(strangers)}: the run is done; only options of rewards can change here")
    table: dict[str, Any] = {"name": [], "prompt": list(config.prompts)}
    for name in names:
        choice = known.get(name.partition("@")[0])
        table["name"].append(choice.asked if choice and "@" not in name else name)
        if choice:
            judge = {option: getattr(choice.term, option) for option in JudgeConfig.model_fields}
            options = {**judge, **choice.config.model_dump(mode="json")}
            table[choice.name] = {option: value for option, value in options.items() if value is not None}
    tables: Tables = {s: t for s, t in read_toml(folder.path / "run.toml").items() if s in SECTIONS}
    scored = [name.partition("@")[0] for name in request.reward] or [choice.name for choice in config.rewards]
    return resolve({**tables, "reward": _changed(table, changes.get("reward", {}), scored)}, Registry())


def _known_space(name: str) -> None:
    try:
        Registry().get("reward", name)
    except UserError as e:
        raise UserError(f"--feature-space: {e}; or {', '.join(SPACES)}") from e


def _changed(table: dict[str, Any], changes: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Options of rewards with changes; `reward.OPTION` is enough where one is named, or the run has one."""
    for option, value in changes.items():
        if isinstance(value, Mapping):
            table[option] = {**table.get(option, {}), **value}
        elif len(names) == 1 and option != "prompt":
            table[names[0]] = {**table.get(names[0], {}), option: value}
        else:
            table[option] = value
    return table


def _judges(config: RunConfig, choices: RunConfig, request: Request) -> tuple[list[Judge], dict[str, Judge]]:
    """What scores, and all that was built, by name."""
    judges = {choice.name: build_judge(choice) for choice in choices.rewards}
    asked = {name.partition("@")[0] for name in request.reward} or {c.name for c in (*config.rewards, *config.heldout)}
    for choice in _namesakes(config) if not request.reward or request.feature_space is None else ():
        name = f"heldout_{choice.name}"
        judges[name] = replace(build_judge(choice), name=name)
        if not request.reward:
            asked.add(name)
    return [judge for name, judge in judges.items() if name in asked], judges


def _namesakes(config: RunConfig) -> list[JudgeChoice]:
    """Judges that have the name of a reward, such as a larger CLIP than is trained on."""
    return [judge for judge in config.heldout if judge.name in {reward.name for reward in config.rewards}]


def _space(judges: Mapping[str, Judge], config: RunConfig, request: Request) -> Judge | str:
    """Where distances are measured."""
    name = request.feature_space
    if name in SPACES:
        if name == "samples" and request.real:
            raise UserError("--feature-space samples: real images are no samples of the model; use pixels or a reward")
        return name
    if name is None:
        heldout = (judges.get(f"heldout_{choice.name}", judges[choice.name]) for choice in config.heldout)
        own = (*heldout, *(judges[choice.name] for choice in config.rewards))
        return next((judge for judge in own if judge.has_features), "pixels")
    judge = judges[name.partition("@")[0]]
    if not judge.has_features:
        raise UserError(f"--feature-space {name}: this reward has no features; use another, or pixels")
    return judge


def _real_features(evaluator: Evaluator, paths: list[Path]) -> Tensor | None:
    if not paths:
        return None
    backbone = evaluator.model.backbone
    device = evaluator.model.device
    shape = tuple(backbone.to_images(torch.zeros((1, *backbone.sample_shape), device=device)).shape[1:])
    batches = (batch.to(device) for batch in read_images(paths, shape, BATCH))
    return torch.cat([evaluator.features(batch, batch) for batch in batches])


def _estimates(
    evaluator: Evaluator, measured: Mapping[str, Measured], real: Tensor | None, request: Request, display: Display
) -> dict[str, dict[str, Estimate]]:
    """All measures by model."""
    found = {name: _scores(evaluator, m) for name, m in measured.items()} | {"real": {}}
    finite = {name: torch.cat(m.finite) for name, m in measured.items()}
    embedded = {name: finite[name] & torch.cat(m.features).isfinite().all(1) for name, m in measured.items()}
    features = {name: torch.cat(m.features)[embedded[name]] for name, m in measured.items()}
    features |= {} if real is None else {"real": real[real.isfinite().all(1)]}
    generator = torch.Generator().manual_seed(request.seed)

    def frechet(name: str, a: Tensor, b: Tensor, paired: bool = False) -> Estimate:
        def tell(done: int) -> None:
            now = f"Fréchet distance {name}, {done}/{RESAMPLES} resamples"
            display.step(request.samples, now, now if done % 25 == 0 else "")

        return _frechet(a, b, generator, paired, tell)

    for name, x in features.items():
        found[name] |= {
            "diversity": _if_known(distance_estimate, x, request.normalised, least=2),
            "vendi": _if_known(vendi_estimate, x, least=2),
        }
        if real is not None and name != "real":
            found[name]["frechet_real"] = frechet(f"of the {name} to the real images", x, features["real"])
    policy = found["policy"]
    if request.reference:
        both = embedded["policy"] & embedded["reference"]
        a, b = (torch.cat(measured[name].features)[both] for name in ("policy", "reference"))
        policy["frechet_reference"] = frechet("to the reference", a, b, paired=True)
    divergence = torch.cat(measured["policy"].divergence)
    policy["velocity_divergence"] = _if_known(mean_estimate, divergence[finite["policy"] & divergence.isfinite()])
    difference = _difference(evaluator, measured) if request.reference else {}
    return {"policy": policy, "reference": found.get("reference", {}), "difference": difference, "real": found["real"]}


def _frechet(a: Tensor, b: Tensor, generator: torch.Generator, paired: bool, tell: Callable[[int], None]) -> Estimate:
    """A distance; `tell` is told how many resamples are done."""
    if len(a) < 2 or len(b) < 2:
        return UNKNOWN
    if len(a) + len(b) < a.shape[1]:
        # In coordinates of what the rows span, distances are the same and matrices smaller.
        span = torch.linalg.qr(torch.cat([a, b]).T).Q
        a, b = a @ span, b @ span
    done = count()

    def distance(a: Tensor, b: Tensor) -> float:
        tell(next(done))
        return frechet_distance(a, b)

    found = bootstrap(distance, [a, b], RESAMPLES, generator, paired)
    return Estimate(max(0.0, found.value), max(0.0, found.low), found.high)


def _scores(evaluator: Evaluator, measured: Measured) -> dict[str, Estimate]:
    found: dict[str, Estimate] = {}
    for judge in evaluator.judges:
        scores, valid = torch.cat(measured.scores[judge.name]), torch.cat(measured.valid[judge.name])
        found[f"reward_{judge.name}"] = _if_known(mean_estimate, scores[valid])
        if judge.probability:
            found[f"share_{judge.name}"] = _if_known(share_estimate, scores[valid] >= SATISFIED)
    return found


def _difference(evaluator: Evaluator, measured: Mapping[str, Measured]) -> dict[str, Estimate]:
    """Mean change of each sample's score: policy and reference started from the same noise."""
    found = {}
    policy, reference = measured["policy"], measured["reference"]
    for name in (judge.name for judge in evaluator.judges):
        change = torch.cat(policy.scores[name]).double() - torch.cat(reference.scores[name]).double()
        both = torch.cat(policy.valid[name]) & torch.cat(reference.valid[name])
        found[f"reward_{name}"] = _if_known(mean_estimate, change[both])
    return found


def _if_known(estimate: Callable[..., Estimate], values: Tensor, *options: Any, least: int = 1) -> Estimate:
    """An estimate from values `(n, ...)`; unknown where there are fewer than it needs."""
    return estimate(values, *options) if len(values) >= least else UNKNOWN


def _facts(request: Request, evaluator: Evaluator) -> dict[str, Any]:
    return {
        "run": str(request.run),
        "round": evaluator.model.round,
        "checkpoint": request.checkpoint,
        "samples": request.samples,
        "seed": request.seed,
        "prompts": list(evaluator.prompts),
        "feature_space": evaluator.space_name,
        "normalised": request.normalised,
        "real_images": str(request.real) if request.real else None,
    }


def _names(evaluator: Evaluator, request: Request) -> dict[str, str]:
    """What each measure is called."""
    names = {f"reward_{judge.name}": f"mean of {judge.name}" for judge in evaluator.judges}
    names |= {f"share_{j.name}": f"share with {j.name} >= {SATISFIED:g}" for j in evaluator.judges if j.probability}
    return names | {
        "diversity": f"diversity, {'normalised' if request.normalised else 'raw'}",
        "vendi": "Vendi score",
        "frechet_real": "Fréchet distance to the real images",
        "frechet_reference": "Fréchet distance to the reference",
        "velocity_divergence": "velocity divergence along paths",
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    """For JSON, which has no NaN."""
    return {key: value if math.isfinite(value) else None for key, value in estimate._asdict().items()}
