"""Checks of a backbone, with its policy and reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from orwcfm_core.backbone import Backbone, Condition
from orwcfm_core.plugin import BackboneSpec
from orwcfm_core.testing.fakes import perturb
from orwcfm_core.testing.subject import Subject
from orwcfm_core.testing.tools import close, expect, generator, random_state_kept

__all__ = [
    "CHECKS",
    "gradient",
    "moves",
    "parameter_order",
    "prompts",
    "random_state",
    "reference_equal",
    "reference_frozen",
    "same_objects",
    "sample_shape",
    "samples_independent",
    "second_instance",
    "state_round_trip",
    "time",
    "to_images",
    "velocity",
]


def sample_shape(subject: Subject) -> None:
    """The shape of a sample is a tuple of sizes; points have one."""
    shape, produces = _backbone(subject).sample_shape, _spec(subject).produces
    good = isinstance(shape, tuple) and len(shape) > 0 and all(isinstance(n, int) and n > 0 for n in shape)
    expect(good, f"expected a tuple of sizes, got sample_shape={shape!r}")
    expect(produces in ("images", "points"), f"expected produces to be images or points, got {produces!r}")
    expect(
        produces != "points" or len(shape) == 1,
        f"expected one dimension, got sample_shape={shape}: declare produces='images', or flatten the samples",
    )


def velocity(subject: Subject) -> None:
    """Velocities have the shape and the dtype of the state, for B = 1 and 5, from policy and reference."""
    backbone = _backbone(subject)
    for count in (1, 5):
        t, x, condition = _points(subject, count)
        for name, field in (("policy", backbone.policy()), ("reference", backbone.reference())):
            v = field.velocity(t, x, condition)
            expect(
                v.shape == x.shape and v.dtype == x.dtype,
                f"the {name}'s velocity: expected shape {tuple(x.shape)} {x.dtype}, got {tuple(v.shape)} {v.dtype}",
            )
            expect(bool(v.isfinite().all()), f"the {name}'s velocity is NaN or infinite")


@torch.no_grad()
def time(subject: Subject) -> None:
    """A time `()` for all samples is the same as `(B,)` equal times."""
    backbone, (_, x, condition) = _backbone(subject), _points(subject)
    with _perturbed(backbone):
        for field in (backbone.policy(), backbone.reference()):
            one = field.velocity(torch.tensor(0.3), x, condition)
            each = field.velocity(torch.full((len(x),), 0.3), x, condition)
            expect(close(one, each), "t of shape () gives another velocity than equal t of shape (B,)")


@torch.no_grad()
def samples_independent(subject: Subject) -> None:
    """A sample's velocity depends on no other sample, nor on its place in the batch."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    with _perturbed(backbone):
        v = backbone.policy().velocity(t, x, condition)
        for rows in ([3, 0, 4, 2, 1], [1, 2]):
            some = {name: value[rows] for name, value in condition.items()}
            got = backbone.policy().velocity(t[rows], x[rows], some)
            expect(
                close(got, v[rows]),
                f"the velocities of samples {rows} change when they are a batch: no statistics over the batch",
            )


def gradient(subject: Subject) -> None:
    """Every trainable parameter is a floating-point leaf that requires a gradient, and gets one."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    parameters = backbone.policy().parameters()
    expect(bool(parameters), "the policy has no parameters: there is nothing to train")
    for name, p in parameters.items():
        good = isinstance(p, Tensor) and p.is_floating_point() and p.is_leaf and p.requires_grad
        expect(good, f"parameter {name}: expected a floating-point leaf tensor with requires_grad=True")
    with _perturbed(backbone):
        v = backbone.policy().velocity(t, x, condition)
        direction = torch.randn(v.shape, generator=generator(3)).to(v)
        expect(v.requires_grad, "the policy's velocity carries no gradient: do not detach it")
        found = torch.autograd.grad((v * direction).sum(), list(parameters.values()), allow_unused=True)
    missed = [name for name, g in zip(parameters, found, strict=True) if g is None or not g.any()]
    expect(not missed, f"no gradient reaches {_few(missed)}: leave them out of parameters(), or use them")
    broken = [name for name, g in zip(parameters, found, strict=True) if g is not None and not g.isfinite().all()]
    expect(not broken, f"the gradient of {_few(broken)} is NaN or infinite")


@torch.no_grad()
def state_round_trip(subject: Subject) -> None:
    """Parameters that are written, changed and read back give the same velocity."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    with _perturbed(backbone):
        parameters = backbone.policy().parameters()
        # A field may return a view of its parameters.
        wanted = backbone.policy().velocity(t, x, condition).clone()
        stored = save({name: p.detach().contiguous() for name, p in parameters.items()})
        perturb(parameters, seed=1)
        changed = backbone.policy().velocity(t, x, condition)
        expect(not torch.equal(changed, wanted), "other parameters give the same velocity: they are not used")
        for name, value in load(stored).items():
            parameters[name].copy_(value)
        expect(
            torch.equal(backbone.policy().velocity(t, x, condition), wanted),
            "parameters that were read back give another velocity: all that training changes must be in parameters()",
        )


@torch.no_grad()
def reference_equal(subject: Subject) -> None:
    """Before training, policy and reference are the same field."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    v, v_ref = (field.velocity(t, x, condition) for field in (backbone.policy(), backbone.reference()))
    expect(
        close(v, v_ref),
        f"policy and reference differ by up to {float((v - v_ref).abs().max()):.3g} before training: start the policy "
        "at the reference",
    )


def reference_frozen(subject: Subject) -> None:
    """Training the policy does not move the reference, and no gradient passes through it."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    before = backbone.reference().velocity(t, x, condition)
    expect(not before.requires_grad, "the reference's velocity carries a gradient: switch requires_grad off in it")
    before = before.clone()
    with _perturbed(backbone), torch.no_grad():
        backbone.policy().velocity(t, x, condition)
        same = torch.equal(before, backbone.reference().velocity(t, x, condition))
    expect(same, "the reference moves with the policy: give it weights that nobody trains")


def same_objects(subject: Subject) -> None:
    """policy() and reference() return the same object every time."""
    backbone = _backbone(subject)
    for name in ("policy", "reference"):
        same = getattr(backbone, name)() is getattr(backbone, name)()
        expect(same, f"{name}() returns another object every time: make it once and keep it")


@torch.no_grad()
def to_images(subject: Subject) -> None:
    """Any samples become float32 images (B, C, H, W) in [0, 1]."""
    backbone = _backbone(subject)
    for scale in (1.0, 3.0):
        for count in (1, 5):
            images = backbone.to_images(scale * _points(subject, count)[1])
            expect(
                images.ndim == 4 and len(images) == count and images.dtype == torch.float32,
                f"expected float32 images ({count}, C, H, W), got {tuple(images.shape)} {images.dtype}",
            )
            low, high = float(images.min()), float(images.max())
            expect(0 <= low <= high <= 1, f"expected images in [0, 1], got {low:.3g} to {high:.3g}: clamp them")


@torch.no_grad()
def prompts(subject: Subject) -> None:
    """Prompts become tensors of one row each and change the velocity, if the spec says that the model reads them."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    if not _spec(subject).conditional(subject.config):
        expect(not condition, f"encode() returned {_few(list(condition))}, but the spec says that it is unconditional")
        return
    expect(bool(condition), "encode() returned nothing, but the spec says that prompts condition the model")
    for name, value in condition.items():
        good = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(x)
        expect(good, f"encode(): expected a tensor of {len(x)} rows in '{name}'")
    one, other = ([prompt] * len(x) for prompt in subject.spec.example.prompts)
    with _perturbed(backbone):
        v = backbone.policy().velocity(t, x, backbone.encode(one))
        expect(
            not close(backbone.policy().velocity(t, x, backbone.encode(other)), v),
            f"'{one[0]}' and '{other[0]}' give the same velocity: let prompts condition it, or give example others",
        )


def random_state(subject: Subject) -> None:
    """Velocity, encode and to_images leave the global random states alone."""
    backbone = _backbone(subject)
    with random_state_kept("no dropout, and random numbers from a generator of your own"):
        t, x, condition = _points(subject)
        for field in (backbone.policy(), backbone.reference()):
            field.velocity(t, x, condition)
        with torch.no_grad():
            backbone.to_images(x)


@torch.no_grad()
def second_instance(subject: Subject) -> None:
    """Built again under the same seed of torch, it is the same: runs are resumed, and sampled from."""
    t, x, condition = _points(subject)
    with torch.random.fork_rng(devices=[]):
        fields = []
        for _ in range(2):
            torch.manual_seed(0)
            fields.append(cast(Backbone, subject.build()).reference())
        one, other = (field.velocity(t, x, condition) for field in fields)
    expect(close(other, one), "a second instance has another velocity: draw what it is built with by torch alone")


@torch.no_grad()
def moves(subject: Subject) -> None:
    """`to` moves the backbone itself, and changes no velocity."""
    backbone, (t, x, condition) = _backbone(subject), _points(subject)
    wanted = backbone.policy().velocity(t, x, condition).clone()
    expect(backbone.to(torch.device("cpu")) is backbone, "to(device) returned something else: return self")
    got = backbone.policy().velocity(t, x, condition)
    expect(torch.equal(got, wanted), "the velocity is another one after to(device)")


def parameter_order(subject: Subject) -> None:
    """parameters() gives the same tensors in the same order every time."""
    backbone = _backbone(subject)
    first = backbone.policy().parameters()
    with _perturbed(backbone):
        later = [backbone.policy().parameters() for _ in range(2)]
    for again in later:
        expect(list(first) == list(again), "parameters() changes its order: return them as the model has them")
        same = all(p is q for p, q in zip(first.values(), again.values(), strict=True))
        expect(same, "parameters() returns other tensors every time: return the trained ones, not copies")


def _spec(subject: Subject) -> BackboneSpec:
    return cast(BackboneSpec, subject.spec)


def _backbone(subject: Subject) -> Backbone:
    return cast(Backbone, subject.component)


def _points(subject: Subject, count: int = 5) -> tuple[Tensor, Tensor, Condition]:
    """Times, states and the condition of the example's prompts in turn."""
    backbone, source = _backbone(subject), generator(count)
    t = torch.rand(count, generator=source)
    x = torch.randn((count, *backbone.sample_shape), generator=source)
    return t, x, backbone.encode(subject.prompts(count))


@contextmanager
def _perturbed(backbone: Backbone) -> Iterator[None]:
    """Move the policy away from the reference for a while; layers that start at zero let no gradient pass."""
    parameters = backbone.policy().parameters()
    saved = [p.detach().clone() for p in parameters.values()]
    perturb(parameters)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters.values(), saved, strict=True):
                p.copy_(value)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


CHECKS: Sequence[Callable[[Subject], None]] = (
    sample_shape,
    velocity,
    time,
    samples_independent,
    gradient,
    state_round_trip,
    reference_equal,
    reference_frozen,
    same_objects,
    to_images,
    prompts,
    random_state,
    parameter_order,
    second_instance,
    moves,
)
"""In the order in which they run."""
