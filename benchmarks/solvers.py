"""How far a sampler's pictures are from the flow's own, at ten model evaluations each.

    python benchmarks/solvers.py

The same noise is carried to data by the pre-trained U-Nets with each sampler and, as the flow itself, in 60 steps of
Heun's. What a sampler loses, a policy that learns from its own samples loses again in every round. Writes a table of
docs/results.md; two minutes on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.sampler import Adams, Euler, FixedStep, Heun, Midpoint, RungeKutta4
from orwcfm_core.trainer import draw
from orwcfm_reward_classifier.reward import load, prepare
from page import DOCS, row, write
from torch import Tensor

EXACT = Heun(60, 2.0)
SAMPLERS: dict[str, FixedStep] = {
    f"{name}, {steps} steps, shift {shift:g}": sampler(steps, shift)
    for name, sampler, steps, shifts in (
        ("euler", Euler, 10, (1.0, 3.0)),
        ("midpoint", Midpoint, 5, (1.0, 2.0, 3.0)),
        ("heun", Heun, 5, (1.0, 2.0)),
        ("adams", Adams, 10, (1.0, 2.0, 3.0)),
        ("euler", Euler, 30, (3.0,)),
        ("rk4", RungeKutta4, 5, (1.0,)),
    )
    for shift in shifts
}


def compare(data: str, count: int) -> Iterator[list[str]]:
    """Cells for each sampler: mean square error, share of pictures of the same class, standard deviation."""
    _, state = assemble(
        resolve({"backbone": {"name": "unet", "weights": data}, "train": {"device": "cpu"}}, Registry())
    )
    backbone, classifier = state.components.backbone, load(data).classifier
    noise = torch.randn(count, *backbone.sample_shape, generator=torch.Generator().manual_seed(5))
    prompts = list(state.components.prompts) * count

    @torch.no_grad()
    def drawn(sampler: FixedStep) -> tuple[Tensor, Tensor]:
        with state.autocast():
            x_1 = draw(backbone, backbone.reference(), sampler, noise, prompts, 256)[0]
        return x_1, classifier(prepare(backbone.to_images(x_1))).argmax(1)

    exact, classes = drawn(EXACT)
    for sampler in (*SAMPLERS.values(), EXACT):
        x_1, found = drawn(sampler)
        error, same = float((x_1 - exact).square().mean()), float((found == classes).double().mean())
        yield [f"{error:.4f}", f"{same:.2f}", f"{float(x_1.std(0).mean()):.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1024)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [*SAMPLERS, "the flow itself"]
    evaluations = [sampler.stages * (len(sampler.times) - 1) for sampler in (*SAMPLERS.values(), EXACT)]
    columns = zip(names, evaluations, compare("fashion", args.samples), compare("mnist", args.samples), strict=True)
    head = row(
        "sampler",
        "evaluations",
        *(f"{data}: {of}" for data in ("clothes", "digits") for of in ("error", "same class", "std")),
    )
    write(DOCS / "results.md", "solvers", [head, *(row(name, nfe, *a, *b) for name, nfe, a, b in columns)])


if __name__ == "__main__":
    main()
