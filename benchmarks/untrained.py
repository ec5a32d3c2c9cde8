"""What small files cost in diversity without any training: the pre-trained model's pictures, chosen or changed.

    python benchmarks/untrained.py

Samples of the pre-trained U-Net, measured as in `trainers.py`: weighted by exp(lambda r / std), darkened, blurred, and
drawn by the midpoint rule. Writes a table of docs/results.md; two minutes on one thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from orwcfm_core.metrics import effective_sample_size
from orwcfm_core.trainer import State
from page import DOCS, row, write
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from trainers import SAMPLES, start

MIDPOINT = {"sampler.name": "midpoint", "sampler.steps": 5, "sampler.shift": 2.0}


@torch.no_grad()
def drawn(state: State) -> Tensor:
    """Pictures of the pre-trained model, `(N, 1, 28, 28)`."""
    backbone, prompts = state.components.backbone, [state.components.prompts[0]] * SAMPLES
    # The noise of `evaluate`.
    noise = torch.randn(SAMPLES, *backbone.sample_shape, generator=torch.Generator().manual_seed(2**31 - 1))
    return backbone.to_images(state.sample(noise, prompts)[0])


def judged(state: State, images: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of pictures, `(N,)`, and their features, `(N, D)`."""
    parts = state.components
    # The size of a picture needs nothing else, not even the sample it is made of.
    rewards = parts.objective.score(images, images, [parts.prompts[0]] * len(images)).values
    return rewards, parts.features(images, images)


def weighted_diversity(features: Tensor, w: Tensor) -> float:
    """Mean distance between pairs that are drawn by weights `(N,)`, pairs of the same sample left out."""
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    share = w.double() / w.double().sum()
    return float(share @ torch.cdist(unit, unit) @ share / (1 - share.square().sum()))


def rows() -> Iterator[str]:
    yield row("pictures of the pre-trained model", "reward", "diversity kept", "effective samples")
    state = start("compression")
    images = drawn(state)
    rewards, features = judged(state, images)
    equal = torch.ones(SAMPLES)
    before = weighted_diversity(features, equal)

    def cells(rewards: Tensor, features: Tensor, w: Tensor = equal) -> tuple[str, str, int]:
        mean, kept = float((w * rewards).sum() / w.sum()), weighted_diversity(features, w) / before
        return f"{mean:.3f}", f"{kept:.3f}", round(effective_sample_size(w) * SAMPLES)

    yield row("as they are", *cells(rewards, features))
    for strength in (1.0, 1.5, 2.0, 3.0):
        w = (strength * (rewards - rewards.mean()) / rewards.std()).exp()
        yield row(f"weighted by exp({strength:g} r / std)", *cells(rewards, features, w))
    for share in (0.8, 0.6):
        yield row(f"darkened to {share:g}", *cells(*judged(state, share * images)))
    for sigma in (0.5, 0.7):
        blurred = gaussian_blur(images, [5, 5], [sigma])
        yield row(f"blurred, sigma {sigma:g} pixels", *cells(*judged(state, blurred)))
    yield row("sampled by the midpoint rule", *cells(*judged(state, drawn(start("compression", **MIDPOINT)))))


def main() -> None:
    torch.set_num_threads(1)
    write(DOCS / "results.md", "untrained", rows())


if __name__ == "__main__":
    main()
