"""Checks of a reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from orwcfm_core.errors import RunError, UserError
from orwcfm_core.plugin import RewardSpec
from orwcfm_core.registry import blame
from orwcfm_core.reward import Reward, Scores
from orwcfm_core.testing.subject import Subject
from orwcfm_core.testing.tools import Skip, close, expect, generator, offline, random_state_kept

__all__ = [
    "CHECKS",
    "batch_order",
    "batch_split",
    "channels",
    "describes",
    "deterministic",
    "empty_prompt",
    "example_images",
    "features",
    "gradient",
    "inputs_unchanged",
    "mask",
    "moves",
    "offline_scoring",
    "prompts",
    "random_state",
    "scores",
    "value_range",
]


def example_images(subject: Subject, count: int = 5) -> Tensor:
    """Images of the example's shape in [0, 1], from blurred shapes to noise; normal points where it scores points."""
    shape, source = subject.spec.example.shape, generator(count)
    if _spec(subject).accepts == "points":
        return 2 * torch.randn((count, *shape), generator=source)
    expect(len(shape) == 3, f"expected (C, H, W) in the spec's example, got shape={shape!r}")
    coarse = torch.rand((count, shape[0], 4, 4), generator=source)
    share = torch.linspace(0.1, 0.9, count).view(-1, 1, 1, 1)
    smooth = F.interpolate(coarse, shape[1:], mode="bilinear")
    return (1 - share) * smooth + share * torch.rand((count, *shape), generator=source)


def scores(subject: Subject) -> None:
    """A batch of B images gets B finite scores, for B = 1 and 5."""
    for count in (1, 5):
        _, valid = _score(subject, example_images(subject, count))
        expect(
            bool(valid.any()), f"none of {count} images could be scored: set shape and prompts in the spec's example"
        )


def batch_order(subject: Subject) -> None:
    """Images in another order get the same scores in that order."""
    _only_if_deterministic(subject)
    images, order = example_images(subject), [3, 0, 4, 2, 1]
    wanted = _score(subject, images)
    got = _score(subject, images[order], [subject.prompts(5)[i] for i in order])
    _expect_same(got, (wanted[0][order], wanted[1][order]), "images in another order: score each by itself")


def batch_split(subject: Subject) -> None:
    """Images in two batches get the same scores as in one."""
    _only_if_deterministic(subject)
    images, texts = example_images(subject), subject.prompts(5)
    parts = [_score(subject, images[rows], texts[rows]) for rows in (slice(0, 2), slice(2, 5))]
    got = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    _expect_same(got, _score(subject, images), "images in two batches instead of one: score each by itself")


def inputs_unchanged(subject: Subject) -> None:
    """Images and prompts are not written to."""
    images, texts = example_images(subject), list(subject.prompts(5))
    given_images, given_texts = images.clone(), list(texts)
    with torch.no_grad():
        subject.component.score(given_images, given_texts)
    expect(torch.equal(images, given_images), "the images were changed: work on a copy")
    expect(texts == given_texts, "the list of prompts was changed: work on a copy")


def random_state(subject: Subject) -> None:
    """Scoring leaves the global random states alone."""
    with random_state_kept("draw from a generator of the reward's own"):
        _score(subject, example_images(subject))


def value_range(subject: Subject) -> None:
    """Scores lie in the declared range, those of all black and all white images too; probabilities in [0, 1]."""
    spec = _spec(subject)
    low, high = spec.value_range
    declared = f"value_range=({low}, {high})"
    if spec.probability:
        low, high = max(0.0, low or 0.0), min(1.0, 1.0 if high is None else high)
        declared += " and probability=True"
    if low is None and high is None:
        raise Skip("declares no value_range")
    images = example_images(subject)
    extremes = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
    values, valid = _score(subject, torch.cat([images, extremes]))
    found = values[valid]
    if not len(found):
        raise Skip("no image could be scored")
    smallest, largest = float(found.min()), float(found.max())
    inside = (low is None or smallest >= low - 1e-5 * max(1.0, abs(low))) and (
        high is None or largest <= high + 1e-5 * max(1.0, abs(high))
    )
    expect(inside, f"scores from {smallest:.6g} to {largest:.6g}, but the spec declares {declared}")


def deterministic(subject: Subject) -> None:
    """The same images get the same scores again, and from a second instance."""
    _only_if_deterministic(subject)
    images = example_images(subject)
    wanted = _score(subject, images)
    _expect_same(_score(subject, images), wanted, "the same images again: declare deterministic=False, or be it")
    _expect_same(
        _score(subject, images, reward=subject.build()),
        wanted,
        "a second instance: what it is built with must not be random",
    )


def gradient(subject: Subject) -> None:
    """Gradients reach the images if, and only if, the spec says so."""
    images = example_images(subject).requires_grad_()
    if _spec(subject).differentiable:
        found = _gradient(subject.component, images, subject.prompts(5))
        expect(found is not None, "no gradient reaches the images: declare differentiable=False")
        assert found is not None
        expect(bool(found.isfinite().all()), "the gradient at the images is NaN or infinite")
        expect(bool(found.any()), "the gradient at the images is 0 everywhere: declare differentiable=False")
        return
    _score(subject, images.detach())
    try:
        with blame("gradient", RunError):
            found = _gradient(subject.component, images, subject.prompts(5))
    except RunError:
        # It need not take images that carry gradients, as `images.numpy()` does not.
        return
    expect(found is None or not found.any(), "a gradient reaches the images: declare differentiable=True")


def mask(subject: Subject) -> None:
    """An image that is not a number leaves the others' scores alone, and is invalid unless its score is finite."""
    _only_if_deterministic(subject)
    images = example_images(subject)
    broken = images.clone()
    broken[2] = torch.nan
    wanted, got, others = _score(subject, images), _score(subject, broken), [0, 1, 3, 4]
    _expect_same(
        (got[0][others], got[1][others]),
        (wanted[0][others], wanted[1][others]),
        "images next to one full of NaN: score each by itself",
    )


def offline_scoring(subject: Subject) -> None:
    """Nothing is looked up in a network while scoring, the first time included."""
    fresh, images = subject.build(), example_images(subject, 2)
    with offline():
        _score(subject, images, reward=fresh)


def prompts(subject: Subject) -> None:
    """The score depends on the prompt if, and only if, the spec says so."""
    _only_if_deterministic(subject)
    images, (first, second) = example_images(subject), subject.spec.example.prompts
    one, other = (_score(subject, images, [prompt] * 5) for prompt in (first, second))
    if _reads_prompts(subject):
        expect(
            not close(other[0], one[0]),
            f"'{first}' and '{second}' score the same: declare reads_prompts=False, or give example two prompts that "
            "differ",
        )
        return
    _expect_same(other, one, "another prompt: declare reads_prompts=True")
    _expect_same(_score(subject, images, [""] * 5), one, "an empty prompt, and a run without prompts has these")


def empty_prompt(subject: Subject) -> None:
    """An empty prompt is scored, or refused with a UserError: users leave the prompt out."""
    if not _reads_prompts(subject):
        raise Skip("declares reads_prompts=False, or that it ignores them with these options")
    # A line that says what to set is an answer, too.
    with suppress(UserError), blame("an empty prompt, which must be scored or refused with a UserError", RunError):
        _score(subject, example_images(subject), [""] * 5)


def channels(subject: Subject) -> None:
    """Images of 1 and of 3 channels are scored; a reward need not, and then this is skipped."""
    if _spec(subject).accepts == "points":
        raise Skip("scores points")
    images = example_images(subject)
    given = images.shape[1]
    other = 3 if given == 1 else 1
    try:
        with blame("other channels", RunError):
            _score(subject, images[:, :1].expand(-1, other, -1, -1))
    except (RunError, UserError) as e:
        backbone = "sd3" if other == 3 else "unet"
        only = f"{given} channel{'s' if given > 1 else ''} only"
        raise Skip(f"scores images of {only}: the shipped {backbone} backbone draws {other}") from e


def moves(subject: Subject) -> None:
    """`to` moves the reward itself, and changes no score."""
    reward = cast(Reward, subject.component)
    images = example_images(subject)
    wanted = _score(subject, images)
    expect(reward.to(torch.device("cpu")) is reward, "to(device) returned something else: return self")
    got = _score(subject, images)
    if _spec(subject).deterministic:
        _expect_same(got, wanted, "the same images after to(device): move all that it computes with, and nothing else")


def describes(subject: Subject) -> None:
    """`describe` is one line of text, which stands on the screen and in the report."""
    text = subject.component.describe()
    good = isinstance(text, str) and bool(text.strip()) and len(text.splitlines()) == 1
    expect(good, f"expected one line of text from describe(), got {text!r}")


def features(subject: Subject) -> None:
    """Features, if there are any, are finite rows, one for each image by itself."""
    images = example_images(subject)
    with torch.no_grad():
        found = subject.component.features(images)
        if found is None:
            raise Skip("has no features")
        alone = subject.component.features(images[3:4])
    good = isinstance(found, Tensor) and found.ndim == 2 and len(found) == 5
    expect(good, f"expected features (5, D), got {_shape(found)}")
    expect(bool(found.isfinite().all()), "features are NaN or infinite")
    expect(alone.shape == found[3:4].shape and close(alone, found[3:4]), "features of an image depend on the others")


def _spec(subject: Subject) -> RewardSpec:
    return cast(RewardSpec, subject.spec)


def _reads_prompts(subject: Subject) -> bool:
    """Whether the score depends on the prompt with these options."""
    return _spec(subject).reads_prompts and not _spec(subject).ignores_prompt(subject.config)


def _only_if_deterministic(subject: Subject) -> None:
    if not _spec(subject).deterministic:
        raise Skip("declares deterministic=False")


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _score(
    subject: Subject, images: Tensor, texts: Sequence[str] | None = None, reward: Reward | None = None
) -> tuple[Tensor, Tensor]:
    """Values, 0 where invalid, and the mask, `(B,)` each."""
    texts, reward = texts or subject.prompts(len(images)), reward or cast(Reward, subject.component)
    with torch.no_grad():
        found = reward.score(images.clone(), list(texts))
    values, valid = found if isinstance(found, Scores) else (found, None)
    wanted = (len(images),)
    expect(
        isinstance(values, Tensor) and values.shape == wanted,
        f"expected one score per image, shape {wanted}, got {_shape(values)}",
    )
    expect(values.is_floating_point(), f"expected floating-point scores, got {values.dtype}")
    if valid is None:
        valid = torch.ones(wanted, dtype=torch.bool)
    expect(
        isinstance(valid, Tensor) and valid.shape == wanted and valid.dtype == torch.bool,
        f"expected a mask of booleans, shape {wanted}, got {_shape(valid)} {getattr(valid, 'dtype', '')}",
    )
    bad = int((valid & ~values.isfinite()).sum())
    expect(bad == 0, f"{bad} of {len(images)} scores are NaN or infinite: mark them as invalid in Scores.valid")
    return torch.where(valid, values, 0.0), valid


def _expect_same(got: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], where: str) -> None:
    expect(torch.equal(got[1], wanted[1]), f"other images are valid for {where}")
    if not close(got[0], wanted[0]):
        row = int((got[0] - wanted[0]).abs().argmax())
        raise AssertionError(f"expected {float(wanted[0][row]):.6g}, got {float(got[0][row]):.6g} for {where}")


def _gradient(reward: Reward, images: Tensor, texts: Sequence[str]) -> Tensor | None:
    """The gradient of the sum of all scores at the images, None if there is none."""
    values = reward.score(images, list(texts))[0]
    if not values.requires_grad:
        return None
    (found,) = torch.autograd.grad(values.sum(), images, allow_unused=True)
    return found


CHECKS: Sequence[Callable[[Subject], None]] = (
    scores,
    batch_order,
    batch_split,
    inputs_unchanged,
    random_state,
    value_range,
    deterministic,
    gradient,
    mask,
    offline_scoring,
    prompts,
    empty_prompt,
    channels,
    features,
    moves,
    describes,
)
"""In the order in which they run."""
