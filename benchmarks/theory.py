"""Theory against measurement on a Gaussian mixture: writes the pictures and the tables of docs/theory.md.

    python benchmarks/theory.py

One thread of the CPU, about 5 minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from charts import COLOURS, Panel, Series, save
from laboratory import (
    GEOMETRY,
    REWARDS,
    advantages,
    exp_weights,
    nearest_tilt,
    noise,
    perfect_rounds,
    shares_by_round,
    spread,
    start,
    tilt,
    total_variation,
)
from orwcfm_backbone_gmm.mixture import GaussianMixture, place_means
from orwcfm_core.backbone import VelocityField
from orwcfm_core.trainer import State
from page import DOCS, IMAGES, row, write
from scipy.optimize import linear_sum_assignment
from torch import Tensor

PAGE = DOCS / "theory.md"
REFERENCE = GaussianMixture(place_means(GEOMETRY["dim"], len(REWARDS), GEOMETRY["radius"]), GEOMETRY["std"])
P_0 = REFERENCE.weights
TAU = 0.8
"""The default's."""

FULL = {"samples": 4096, "updates": 600, "lr": 0.02}
FULLER = {"samples": 2048, "updates": 200, "lr": 0.02}
HARD = {"ema": 0.0}
SHARE = [0, 0.2, 0.4, 0.6, 0.8, 1]
LIMIT = 16
"""Perfect rounds, half of the old shares kept in each, after which a fixed point is reached."""

Tables = dict[str, Mapping[str, Any]]


def default(alpha: float, tau: float = TAU) -> Tables:
    """orw-cfm as it comes, but for its strengths."""
    return {"weighting": {"name": "advantage", "tau": tau}, "reg": {"name": "w2", "alpha": alpha}}


def exponential(alpha: float, tau: float) -> Tables:
    """The paper's weights."""
    reg = {"name": "w2", "alpha": alpha, "anchor": "reference"}
    return {"weighting": {"name": "exp", "tau": tau}, "reg": reg}


QUICK: Tables = {"sampler": HARD, "train": {"updates": 100}}
"""A hard copy as sampling policy comes to the fixed point in fewer rounds."""

ONE_DEVIATION = {"name": "group-advantage", "tau": 1.0, "clip": 1.0, "spread": "round"}
"""Advantages in standard deviations, clipped at one; `nft` proposes fifths of them, clipped at five."""

TRAINERS: Mapping[str, tuple[int, Tables]] = {
    "orw-cfm, alpha 1": (20, default(1.0) | QUICK),
    "orw-cfm, alpha 0.5": (20, default(0.5) | QUICK),
    "orw-cfm, alpha 0.1": (60, default(0.1)),
    "orw-cfm, exp, tau 1, alpha 0.3": (24, exponential(0.3, 1.0) | {"sampler": HARD, "train": FULLER}),
    "awm, alpha 0.3": (30, {"train": {"name": "awm"}, "reg": {"name": "w2", "alpha": 0.3, "anchor": "reference"}}),
    "nft, alpha 0.5": (20, {"train": {"name": "nft"}, "weighting": ONE_DEVIATION, "reg": {"name": "w2", "alpha": 0.5}}),
    "rvm, alpha 0.3": (20, {"train": {"name": "rvm"}, "reg": {"name": "w2", "alpha": 0.3}}),
    "flow-grpo, kl, alpha 1, clip 0.2": (
        30,
        {
            "train": {"name": "flow-grpo", "clip_range": 0.2},
            "sampler": {"name": "euler"},
            "reg": {"name": "kl", "alpha": 1.0},
        },
    ),
    "rwr, tau 2": (15, {"train": {"name": "rwr", "data_samples": 16384}, "weighting": {"name": "exp", "tau": 2.0}}),
    "raft": (8, {"train": {"name": "raft"}}),
}


def rounds_without_anchor() -> Iterator[str]:
    """Section 1: `w^N q_0` and the collapse."""
    tau, rounds = 2.0, 8
    run = {**exponential(0.0, tau), "sampler": HARD | {"steps": 24}, "train": FULL}
    measured = [p for _, p in shares_by_round(rounds, **run)]
    panel = shares_panel(
        f"exp weights, tau {tau:g}, alpha 0", measured, [tilt(P_0, tau * n / 10) for n in range(10 * rounds + 1)], 10
    )
    save(IMAGES / "theory-rounds.png", [panel])
    yield row("rounds N", "measured shares", "q_0 exp(N tau r)", "total variation")
    for n in (1, 2, 4, 8):
        expected = tilt(P_0, tau * n)
        yield row(n, listed(measured[n]), listed(expected), f"{total_variation(measured[n], expected):.3f}")


def rounds_with_anchor(runs: Mapping[str, Sequence[Tensor]]) -> Iterator[str]:
    """Section 2: both weightings with the W2 term, after few rounds and many."""
    names = ("orw-cfm, exp, tau 1, alpha 0.3", "orw-cfm, alpha 0.5")
    perfect = (
        perfect_rounds(REFERENCE, exp_weights(1.0), 0.3, 24),
        [perfect_rounds(REFERENCE, advantages(TAU, P_0), 0.5, LIMIT, 0.5)[-1]] * 21,
    )
    panels = [shares_panel(name, runs[name], expected, 1) for name, expected in zip(names, perfect, strict=True)]
    save(IMAGES / "theory-anchor.png", panels)
    yield row("run", "rounds N", "measured shares", "perfect rounds", "total variation")
    for name, expected in zip(names, perfect, strict=True):
        for n in (1, 2, 4, 8, 16, len(runs[name]) - 1):
            by_round = name == names[0]
            distance = f"{total_variation(runs[name][n], expected[n]):.3f}" if by_round or n > 8 else ""
            target = listed(expected[n]) if by_round or n > 8 else ""
            yield row(name, n, listed(runs[name][n]), target, distance)


def targets(runs: Mapping[str, Sequence[Tensor]]) -> Iterator[str]:
    """Section 3: fixed points of the default against three predictions."""
    yield row("alpha", "measured shares", "to perfect fits", "to those without the cap", "to the tilt")
    for alpha in (1.0, 0.5, 0.1):
        p, kappa = runs[f"orw-cfm, alpha {alpha:g}"][-1], TAU / (alpha * spread(P_0))
        predicted = [
            perfect_rounds(REFERENCE, advantages(TAU, P_0), alpha, LIMIT, 0.5)[-1],
            perfect_rounds(REFERENCE, advantages(TAU, P_0), alpha, LIMIT, 0.5, capped=False)[-1],
            tilt(P_0, kappa),
        ]
        yield row(f"{alpha:g}", listed(p), *(f"{total_variation(p, target):.3f}" for target in predicted))


def tilts(runs: Mapping[str, Sequence[Tensor]]) -> Iterator[str]:
    """Section 5: how far from the family of tilts each trainer ends."""
    yield row("trainer", "shares at the end", "moved in the last third", "nearest lambda", "distance")
    lines = []
    for i, (name, measured) in enumerate(runs.items()):
        p = measured[-1]
        strength, distance = nearest_tilt(P_0, p)
        moved = total_variation(p, measured[len(measured) * 2 // 3])
        yield row(name, listed(p), f"{moved:.3f}", f"{1 / strength:.2f}", f"{distance:.3f}")
        if name.split(",")[0] != "raft":
            ratio = (p / P_0).clamp_min(1e-3).tolist()
            lines.append(Series(name.removesuffix(", clip 0.2"), COLOURS[i % 8], REWARDS.tolist(), ratio))
            lines.append(Series("", COLOURS[i % 8], REWARDS.tolist(), ratio, dots=True))
    half = len(lines) // 4 * 2
    axes = ([0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.01, 0.03, 0.1, 0.3, 1, 3, 10])
    panels = [
        Panel(title, "reward of the component", "share / reference's", part, axes, (False, True))
        for title, part in (("A tilt is a straight line", lines[:half]), ("The others", lines[half:]))
    ]
    save(IMAGES / "theory-tilts.png", panels)


def bounds() -> Iterator[str]:
    """Section 4: the bound against the distance."""
    slopes = steepest()
    largest, mean = max(slopes), sum(slopes) / len(slopes)
    yield row("alpha", "W2^2", "same noise", "integral", "x e^(2 mean L_t)", "x e^(2 L)", "d x `velocity_divergence`")
    found = []
    for alpha in (0.1, 0.3, 1.0, 3.0, 10.0):
        trainer, state = start(12, **default(alpha))
        for _ in range(12):
            metrics = trainer.round(state)
        exact, along, integral = distances(state)
        tight, wide = (math.log10(integral) + 2 * slope / math.log(10) for slope in (mean, largest))
        divergence = GEOMETRY["dim"] * metrics["velocity_divergence"]
        numbers = [f"{number:.3f}" for number in (exact, along, integral)]
        yield row(f"{alpha:g}", *numbers, f"10^{tight:.1f}", f"10^{wide:.1f}", f"{divergence:.3f}")
        found.append((alpha, exact, along, integral, divergence))
    yield f"\nL = {largest:.1f}, mean of L_t over t = {mean:.2f}."
    alphas, *columns = zip(*found, strict=True)
    names = ("W2^2", "same noise", "integral", "d x velocity_divergence")
    lines = [
        Series(name, COLOURS[i], alphas, column) for i, (name, column) in enumerate(zip(names, columns, strict=True))
    ]
    lines += [Series("", line.colour, line.x, line.y, dots=True) for line in lines]
    ticks = ([0.1, 0.3, 1, 3, 10], [0.001, 0.01, 0.1, 1, 10, 100])
    save(
        IMAGES / "theory-bound.png", [Panel("Distance to the reference", "alpha", "square", lines, ticks, (True, True))]
    )


@torch.no_grad()
def distances(state: State, count: int = 2048, steps: int = 48) -> tuple[float, float, float]:
    """W2^2, the mean squared distance of samples from the same noise, and the integral of `|v - v_ref|^2`.

    W2 is that of the two empirical measures, by an exact assignment. Both samples come from the same noise.
    """
    backbone = state.components.backbone
    policy, reference = backbone.policy(), backbone.reference()
    x = noise(count, GEOMETRY["dim"])
    y, integral, h = x, 0.0, 1 / steps
    for i in range(steps):
        t = torch.tensor(i * h, dtype=x.dtype)
        midway = x + h / 2 * policy.velocity(t, x, {})
        v = policy.velocity(t + h / 2, midway, {})
        integral += h * float((v - reference.velocity(t + h / 2, midway, {})).square().sum(1).mean())
        x, y = x + h * v, _midpoint(reference, t, y, h)
    cost = torch.cdist(x, y).square()
    rows, columns = linear_sum_assignment(np.asarray(cost))
    return float(cost[rows, columns].mean()), float(cost.diagonal().mean()), integral


def _midpoint(field: VelocityField, t: Tensor, x: Tensor, h: float) -> Tensor:
    return x + h * field.velocity(t + h / 2, x + h / 2 * field.velocity(t, x, {}), {})


def steepest(times: int = 41, side: int = 101) -> list[float]:
    """The Lipschitz constant of the reference's velocity at equidistant times, on a grid about its means."""
    axis = torch.linspace(-4.5, 4.5, side, dtype=torch.float64)
    x, step = torch.cartesian_prod(axis, axis), 1e-4
    found = []
    for t in torch.linspace(0, 1, times, dtype=torch.float64):
        moves = step * torch.eye(2, dtype=torch.float64)
        columns = [(REFERENCE.velocity(t, x + e) - REFERENCE.velocity(t, x - e)) / (2 * step) for e in moves]
        found.append(float(torch.linalg.matrix_norm(torch.stack(columns, 2), 2).max()))
    return found


def shares_panel(title: str, measured: Sequence[Tensor], expected: Sequence[Tensor], per_round: int) -> Panel:
    """Shares by round, dots as measured and lines as expected."""
    series = []
    for k, reward in enumerate(REWARDS.tolist()):
        x = [n / per_round for n in range(len(expected))]
        series.append(Series(f"r = {reward:g}", COLOURS[k], x, [float(p[k]) for p in expected]))
        series.append(Series("", COLOURS[k], range(len(measured)), [float(p[k]) for p in measured], dots=True))
    last = len(measured) - 1
    ticks = range(0, last + 1, 1 if last < 10 else 4)
    return Panel(title, "rounds", "share", series, (ticks, SHARE))


def listed(p: Tensor) -> str:
    return " ".join(f"{share:.3f}".lstrip("0") if share < 0.9995 else "1.00" for share in p.tolist())


def main() -> None:
    write(PAGE, "rounds", rounds_without_anchor())
    runs = {name: [p for _, p in shares_by_round(n, **tables)] for name, (n, tables) in TRAINERS.items()}
    write(PAGE, "anchor", rounds_with_anchor(runs))
    write(PAGE, "targets", targets(runs))
    write(PAGE, "bounds", bounds())
    write(PAGE, "tilts", tilts(runs))


if __name__ == "__main__":
    main()
