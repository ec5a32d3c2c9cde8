"""What small files cost in diversity without any training: the pre-trained model's pictures, chosen or changed.

    python benchmarks/untrained.py

Samples of the pre-trained U-Net, measured as in `trainers.py`: weighted by exp(lambda r / std), darkened, blurred, and
drawn more accurately. Writes a table of docs/results.md; two minutes on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from orwcfm_cli.assemble import assemble
from orwcfm_cli.options import merge
from orwcfm_core.metrics import effective_sample_size
from orwcfm_core.registry import Registry
from orwcfm_core.resolve import resolve
from orwcfm_core.trainer import State
from page import DOCS, row, write
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from trainers import SAMPLES, TASKS


def start(task: str) -> State:
    """A run of the task that has not begun."""
    return assemble(resolve(merge(None, [], {**TASKS[task].options, "train.device": "cpu"}), Registry()))[1]


@torch.no_grad()
def drawn(state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of the pre-trained model, `(N, 1, 28, 28)`, their rewards, `(N,)`, and their features, `(N, D)`."""
    # The noise of `evaluate`.
    generator = torch.Generator().manual_seed(2**31 - 1)
    noise = torch.randn(SAMPLES, *state.components.backbone.sample_shape, generator=generator)
    x_1 = state.sample(noise, [state.components.prompts[0]] * SAMPLES)[0]
    return judged(state, state.components.backbone.to_images(x_1))


def judged(state: State, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pictures, their rewards and features."""
    parts = state.components
    prompts = [parts.prompts[0]] * len(images)
    # Size needs the pictures alone, not the samples they are made of.
    rewards = parts.objective.score(images, images, prompts).values
    return images, rewards, parts.features(images)


def weighted_diversity(features: Tensor, w: Tensor) -> float:
    """Mean distance between pairs that are drawn by weights `(N,)`, pairs of the same sample left out."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    share = w.double() / w.double().sum()
    return float(share @ torch.cdist(unit, unit) @ share / (1 - share.square().sum()))


def rows() -> Iterator[str]:
    yield row("pictures of the pre-trained model", "reward", "diversity kept", "effective samples")
    state = start("compression")
    images, rewards, features = drawn(state)
    alike = torch.ones(SAMPLES)
    before = weighted_diversity(features, alike)

    def line(name: str, rewards: Tensor, features: Tensor, w: Tensor) -> str:
        mean = float((w * rewards).sum() / w.sum())
        kept = weighted_diversity(features, w) / before
        return row(name, f"{mean:.3f}", f"{kept:.3f}", round(effective_sample_size(w) * SAMPLES))

    yield line("as they are", rewards, features, alike)
    for strength in (1.0, 1.5, 2.0):
        w = (strength * (rewards - rewards.mean()) / rewards.std()).exp()
        yield line(f"weighted by exp({strength:g} r / std)", rewards, features, w)
    for share in (0.8, 0.6):
        yield line(f"darkened to {share:g}", *judged(state, share * images)[1:], alike)
    for sigma in (0.5, 0.7):
        yield line(
            f"blurred, sigma {sigma:g} pixels", *judged(state, gaussian_blur(images, [5, 5], [sigma]))[1:], alike
        )
    yield line("of ten steps of rk4", *drawn(start("compression-exact"))[1:], alike)


def main() -> None:
    torch.set_num_threads(1)
    write(DOCS / "results.md", "untrained", rows())


if __name__ == "__main__":
    main()
